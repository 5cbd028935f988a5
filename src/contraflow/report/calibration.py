"""Calibration of the density: is the latent of test rows normal, and are columns where samples say."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.architectures import MixtureFlow
from contraflow.evaluation import latent_normality, latents, probability_integrals
from contraflow.evaluation.calibration_pictures import MOST_COLUMNS, draw_uniform
from contraflow.evaluation.pictures import left_out, shortened
from contraflow.report.drawing import colour, drawing, panels
from contraflow.report.page import figure, paragraph
from contraflow.report.run_data import Subject
from contraflow.report.tables import names


def calibration(subject: Subject) -> list[str] | None:
    """The section; there is none where the latent of a row depends on its class and that is not known."""
    flow, rows, labels = subject.trained.flow, subject.test, subject.test_labels
    if isinstance(flow, MixtureFlow):
        if labels is None or not bool((labels >= 0).any()):
            return None
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    z = latents(flow, rows, labels, generator=subject.generator())
    uniform = latent_histogram(z) if subject.images is not None else integral_histograms(subject, rows)
    centred = ", about the mean of each row's class" if isinstance(flow, MixtureFlow) else ""
    return [
        paragraph(
            f"Test rows{centred}, {latent_normality(z)}. Under an exact density a p-value is below 0.01 once in a "
            "hundred times; with many rows even a good flow fails, so look at how far the bars leave the band too."
        ),
        uniform,
    ]


def latent_histogram(z: Tensor) -> str:
    """Φ(z) of all dimensions together."""
    with drawing("latent-histogram", "histogram of the latent's probability integrals", height=2.4) as picture:
        axes = picture.figure.subplots()
        draw_uniform(axes, torch.special.ndtr(z.double()).flatten(), (colour("data"), colour("quiet")))
        axes.set(xlabel="Φ(z)", yticks=[])
    return figure(
        picture.svg,
        "The latent, all dimensions.",
        "Of an exact density nineteen bars in twenty end within the band. A hill says that the latent of test rows is "
        "narrower than N(0, 1), a valley that it is wider, a slope that it is shifted.",
    )


def integral_histograms(subject: Subject, rows: Tensor) -> str:
    """The share of samples below each value, column by column."""
    uniform, samples = probability_integrals(rows, subject.samples), len(subject.samples)
    count = min(uniform.shape[1], MOST_COLUMNS)
    with panels("integral-histograms", "probability integrals of every column", count, 1.45) as (picture, grid):
        for index, (axes, name) in enumerate(zip(grid, names(subject), strict=False)):
            draw_uniform(axes, uniform[:, index], (colour("data"), colour("quiet")), samples)
            axes.set(title=shortened(name), yticks=[])
    return figure(
        picture.svg,
        "Probability integrals.",
        f"The share of {samples:,} samples below the value of each test row: of an exact density nineteen bars "
        "in twenty end within the band. A hill says that the samples of a column are too wide, a valley that they are "
        f"too narrow, a slope that they are shifted. {left_out(count, uniform.shape[1])}",
    )
