"""Pictures of images: samples, temperatures, ways between images, nearest training images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation import latent_arc, nearest
from contraflow.evaluation.pictures import image_grid
from contraflow.preprocessing import ImagePreprocessing
from contraflow.report.drawing import colour, drawing, pixels
from contraflow.report.page import figure, gallery
from contraflow.report.run_data import Subject

_TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2)
_ACROSS = 12
#: Width of the page's column and of a picture beside a label, in CSS pixels.
_COLUMN, _BESIDE_LABEL = 736, 600


def samples(subject: Subject) -> list[str] | None:
    """The section of a flow on images."""
    if subject.images is None:
        return None
    return [sample_grid(subject), temperature_sweep(subject), interpolations(subject), *nearest_training(subject)]


def strip(images: Tensor, preprocessing: ImagePreprocessing, columns: int, alt: str, width: int) -> str:
    """Images of integer levels in rows of `columns`."""
    return pixels(image_grid(images, preprocessing.reduced_levels, columns=columns), alt, width)


def sample_grid(subject: Subject) -> str:
    """Samples at temperature 1, beside as many test images."""
    assert subject.images is not None
    count = min(len(subject.samples), len(subject.test), 100)
    across = math.ceil(math.sqrt(count))
    drawn = strip(subject.samples[:count], subject.images, across, "samples", _COLUMN // 2)
    real = strip(subject.images.reduce(subject.test[:count]), subject.images, across, "test images", _COLUMN // 2)
    return figure(
        f'<div class="pair">{drawn}{real}</div>',
        "Samples (left) and test images (right).",
        "The first samples that were drawn, none picked. Look for strokes that end nowhere, for classes that are "
        "missing, and for less variety at the left than at the right.",
    )


def temperature_sweep(subject: Subject) -> str:
    """A row for each temperature, the same latent noise in all."""
    assert subject.images is not None
    rows = []
    for temperature in _TEMPERATURES:
        drawn = subject.draw(_ACROSS, temperature)
        alt = f"samples at temperature {temperature}"
        rows.append((f"T = {temperature:g}", strip(drawn, subject.images, _ACROSS, alt, _BESIDE_LABEL)))
    return figure(
        gallery(rows),
        "Temperature.",
        "The latent noise of a column is the same in all rows, times T. T = 0 is the image of the latent's mode, one "
        "for all; T = 1 is the density that was trained. Lower temperatures trade variety for smoothness. Look for the "
        "temperature at which shapes become whole: the nearer to 1, the better the density.",
    )


@torch.no_grad()
def interpolations(subject: Subject) -> str:
    """From one test image to another along an arc in latent space."""
    assert subject.images is not None
    flow, latents = subject.trained.flow, subject.latents
    rows = []
    for pair in range(min(6, len(latents) // 2)):
        arc = latent_arc(latents[2 * pair], latents[2 * pair + 1], _ACROSS)
        images = subject.images.quantise(flow.inverse(arc)).cpu()
        alt = f"interpolation between test images {2 * pair} and {2 * pair + 1}"
        rows.append((f"images {2 * pair}, {2 * pair + 1}", strip(images, subject.images, _ACROSS, alt, _BESIDE_LABEL)))
    return figure(
        gallery(rows),
        "Between two test images.",
        "Both ends are test images, mapped to latent space and back; between them the path follows the arc at the "
        "radius where the latent's mass lies. Look for a gradual change through plausible images: a path through grey "
        "mush says that the middle of latent space is not used.",
    )


def nearest_training(subject: Subject) -> list[str]:
    """Samples over their nearest training images, and how far away those are."""
    assert subject.images is not None
    levels = subject.images.reduced_levels
    drawn, train = subject.samples[:200], subject.images.reduce(subject.data.train)
    of_samples = nearest(drawn, train)
    of_test = nearest(subject.images.reduce(subject.test[:200]), train)
    closest = of_samples.distance.argsort()[:_ACROSS]
    shown = torch.cat([drawn[closest].double(), train[of_samples.index[closest]].double()])
    picture = strip(shown, subject.images, len(closest), "samples over their nearest training images", _COLUMN)
    with drawing("neighbour-distances", "distances to the nearest training image", height=2.2) as plot:
        axes = plot.figure.subplots()
        everything = torch.cat([of_samples.distance, of_test.distance]).numpy() / (levels - 1)
        bins = np.linspace(0, 1.05 * max(float(everything.max()), 1e-6), 50)
        for found, paint, label, style in (
            (of_test, "data", "test images", {"alpha": 0.45}),
            (of_samples, "model", "samples", {"histtype": "step", "linewidth": 1.6}),
        ):
            weights = np.full(len(found.distance), 1 / len(found.distance))
            axes.hist(
                found.distance.numpy() / (levels - 1), bins, weights=weights, color=colour(paint), label=label, **style
            )
        axes.set(xlabel="root mean square difference a pixel, black to white = 1", yticks=[], xlim=(0, bins[-1]))
        axes.legend()
    copies = int((of_samples.distance == 0).sum())
    medians = [f"{found.distance.median().item() / (levels - 1):.3f}" for found in (of_samples, of_test)]
    return [
        figure(
            picture,
            "The samples that come closest to a training image (top), and that image (below).",
            f"Of {len(drawn)} samples, searched among all {len(train):,} training images; {_copies(copies)}.",
        ),
        figure(
            plot.svg,
            "Distance to the nearest training image.",
            f"Median {medians[0]} for samples and {medians[1]} for test images, which the flow has never seen. Samples "
            "much nearer than test images, or a peak at 0, would mean that training images are repeated by heart.",
        ),
    ]


def _copies(count: int) -> str:
    return "none is a copy" if count == 0 else f"{count} are exact copies"
