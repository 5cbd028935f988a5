"""Images: samples, temperatures, interpolations, nearest training images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation import latent_arc, nearest
from contraflow.evaluation.figures import colour, png_image, svg_figure
from contraflow.evaluation.pictures import image_grid
from contraflow.preprocessing import ImagePreprocessing
from contraflow.report.page import figure, gallery
from contraflow.report.run_data import RunData

_TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2)
_ACROSS = 12
#: Width of the page's column and of a picture beside a label, in CSS pixels.
_COLUMN, _BESIDE_LABEL = 736, 600


def samples(run: RunData) -> list[str] | None:
    """The section; ``None`` unless the data are images."""
    if run.images is None:
        return None
    return [sample_grid(run), temperature_sweep(run), interpolations(run), *nearest_training(run)]


def strip(images: Tensor, preprocessing: ImagePreprocessing, columns: int, alt: str, width: int) -> str:
    """Images of integer levels, `columns` in a row, as an <img> element."""
    return png_image(image_grid(images, preprocessing.reduced_levels, columns=columns), alt, width)


def sample_grid(run: RunData) -> str:
    """Samples at temperature 1 beside the same number of test images."""
    assert run.images is not None
    count = min(len(run.samples), len(run.test), 100)
    across = math.ceil(math.sqrt(count))
    drawn = strip(run.samples[:count], run.images, across, "samples", _COLUMN // 2)
    real = strip(run.images.reduce(run.test[:count]), run.images, across, "test images", _COLUMN // 2)
    return figure(
        f'<div class="pair">{drawn}{real}</div>',
        "Samples (left) and test images (right).",
        "The samples are not selected. Look for broken shapes, for missing classes, and for less variety on the left "
        "than on the right.",
    )


def temperature_sweep(run: RunData) -> str:
    """A row of samples for each temperature, with the same latent noise in all rows."""
    assert run.images is not None
    rows = []
    for temperature in _TEMPERATURES:
        drawn = run.draw(_ACROSS, temperature)
        alt = f"samples at temperature {temperature}"
        rows.append((f"T = {temperature:g}", strip(drawn, run.images, _ACROSS, alt, _BESIDE_LABEL)))
    return figure(
        gallery(rows),
        "Temperature.",
        "Each column has the same latent noise in all rows, multiplied by T. At T = 0 all samples are the image of the "
        "mode of the base; T = 1 is the trained density. A lower temperature gives less variety and smoother samples. "
        "Look for the largest temperature at which shapes are whole: the closer to 1, the better the density.",
    )


@torch.no_grad()
def interpolations(run: RunData) -> str:
    """Interpolations between test images along an arc in latent space."""
    assert run.images is not None
    flow, latents = run.trained.flow, run.latents
    rows = []
    for pair in range(min(6, len(latents) // 2)):
        arc = latent_arc(latents[2 * pair], latents[2 * pair + 1], _ACROSS)
        images = run.images.quantise(flow.inverse(arc)).cpu()
        alt = f"interpolation between test images {2 * pair} and {2 * pair + 1}"
        rows.append((f"images {2 * pair}, {2 * pair + 1}", strip(images, run.images, _ACROSS, alt, _BESIDE_LABEL)))
    return figure(
        gallery(rows),
        "Interpolation between test images.",
        "The ends are test images, mapped to latent space and back. Between them the path follows an arc at the radius "
        "where the mass of the base lies. Look for a gradual change through plausible images: blurred images in the "
        "middle mean that the data do not fill this part of latent space.",
    )


def nearest_training(run: RunData) -> list[str]:
    """Samples above their nearest training images, and histograms of the distances."""
    assert run.images is not None
    levels = run.images.reduced_levels
    drawn, train = run.samples[:200], run.images.reduce(run.data.train)
    of_samples = nearest(drawn, train)
    of_test = nearest(run.images.reduce(run.test[:200]), train)
    closest = of_samples.distance.argsort()[:_ACROSS]
    shown = torch.cat([drawn[closest].double(), train[of_samples.index[closest]].double()])
    picture = strip(shown, run.images, len(closest), "samples above their nearest training images", _COLUMN)
    with svg_figure("neighbour-distances", "distances to the nearest training image", height=2.2) as plot:
        axes = plot.figure.subplots()
        everything = torch.cat([of_samples.distance, of_test.distance]).numpy() / (levels - 1)
        bins = np.linspace(0, 1.05 * max(float(everything.max()), 1e-6), 50)
        for neighbours, paint, label, style in (
            (of_test, "data", "test images", {"alpha": 0.45}),
            (of_samples, "model", "samples", {"histtype": "step", "linewidth": 1.6}),
        ):
            distance = neighbours.distance.numpy() / (levels - 1)
            weights = np.full(len(distance), 1 / len(distance))
            axes.hist(distance, bins, weights=weights, color=colour(paint), label=label, **style)
        axes.set(xlabel="root mean square difference per pixel; black to white is 1", yticks=[], xlim=(0, bins[-1]))
        axes.legend()
    copies = int((of_samples.distance == 0).sum())
    medians = [f"{near.distance.median().item() / (levels - 1):.3f}" for near in (of_samples, of_test)]
    return [
        figure(
            picture,
            "The samples that come closest to a training image (top), and that image (below).",
            f"{len(drawn)} samples were compared with all {len(train):,} training images; {_copies(copies)}.",
        ),
        figure(
            plot.svg,
            "Distance to the nearest training image.",
            f"The median is {medians[0]} for samples and {medians[1]} for test images, which the flow was not trained "
            "on. Samples much closer than test images, or a peak at 0, mean that training images are memorised.",
        ),
    ]


def _copies(count: int) -> str:
    return "none is an exact copy" if count == 0 else f"{count} are exact copies"
