"""Calibration of the density: are latents of test rows normal, and do columns agree with samples?"""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.architectures import MixtureFlow
from contraflow.evaluation import latent_normality, latents, probability_integrals
from contraflow.evaluation.calibration_pictures import MOST_COLUMNS, draw_uniform
from contraflow.evaluation.figures import svg_figure, svg_panels
from contraflow.evaluation.pictures import left_out, shortened
from contraflow.report.page import figure, paragraph
from contraflow.report.run_data import RunData
from contraflow.report.tables import names


def calibration(run: RunData) -> list[str] | None:
    """The section; ``None`` if the base is a mixture of class Gaussians and no test row has a label."""
    flow, rows, labels = run.trained.flow, run.test, run.test_labels
    if isinstance(flow, MixtureFlow):
        if labels is None or not bool((labels >= 0).any()):
            return None
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    z = latents(flow, rows, labels, generator=run.generator())
    uniform = latent_histogram(z) if run.images is not None else integral_histograms(run, rows)
    centred = ", less the mean of their class," if isinstance(flow, MixtureFlow) else ""
    return [
        paragraph(
            f"Kolmogorov–Smirnov tests of test rows{centred} {latent_normality(z)}. If the density is exact, a p-value "
            "is below 0.01 with a probability of 1 %. With many rows even a good flow fails, so also look at how far "
            "the bars are outside the band."
        ),
        uniform,
    ]


def latent_histogram(z: Tensor) -> str:
    """A histogram of Φ(z), all dimensions together."""
    with svg_figure("latent-histogram", "histogram of the latent's probability integrals", height=2.4) as picture:
        axes = picture.figure.subplots()
        draw_uniform(axes, torch.special.ndtr(z.double()).flatten())
        axes.set(xlabel="Φ(z)", yticks=[])
    return figure(
        picture.svg,
        "The latent, all dimensions.",
        "If the density is exact, nineteen bars in twenty end within the band. A hill means that latents of test rows "
        "are narrower than N(0, 1), a valley that they are wider, a slope that they are shifted.",
    )


def integral_histograms(run: RunData, rows: Tensor) -> str:
    """Histograms of the share of samples below each value, column by column."""
    uniform, samples = probability_integrals(rows, run.samples), len(run.samples)
    count = min(uniform.shape[1], MOST_COLUMNS)
    with svg_panels("integral-histograms", "probability integrals of every column", count, 1.45) as (picture, grid):
        for index, (axes, name) in enumerate(zip(grid, names(run), strict=False)):
            draw_uniform(axes, uniform[:, index], samples)
            axes.set(title=shortened(name), yticks=[])
    return figure(
        picture.svg,
        "Probability integrals.",
        f"The share of {samples:,} samples below the value of each test row. If the density is exact, nineteen bars "
        "in twenty end within the band. A hill means that the samples of a column are too wide, a valley that they are "
        f"too narrow, a slope that they are shifted. {left_out(count, uniform.shape[1])}",
    )
