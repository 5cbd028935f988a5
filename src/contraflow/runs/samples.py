"""Samples of a trained flow, and a picture of them that fits the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from contraflow.architectures import HybridFlow
from contraflow.data import Dataset
from contraflow.errors import ConfigurationError
from contraflow.evaluation.figures import save_png
from contraflow.evaluation.pictures import density_picture, image_grid, scatter_picture
from contraflow.flow import Flow
from contraflow.logdet import Exact
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs.progress import Watcher


def draw_samples(
    flow: Flow,
    n: int,
    batch_size: int,
    generator: Generator,
    watcher: Watcher | None = None,
    temperature: float = 1.0,
    label: int | None = None,
) -> Tensor:
    """Draw n samples, one batch after another.

    Args:
        flow: the flow to sample from.
        n: number of samples.
        batch_size: samples computed at once.
        generator: source of randomness.
        watcher: is told the progress.
        temperature: factor on the standard deviation of the base distribution.
        label: class to draw samples of, for a flow with a classifier.

    Returns:
        The samples ``(n, *event_shape)`` on the CPU.

    Raises:
        ConfigurationError: a number out of range, or a label for a flow without a classifier.
        DomainError: the flow has no such class, or hardly ever draws it.
    """
    if n < 1 or batch_size < 1 or temperature < 0:
        raise ConfigurationError(
            f"n={n}, batch_size={batch_size}, temperature={temperature}: n and batch_size must be at least 1, and the "
            "temperature must not be negative."
        )
    if label is not None and not isinstance(flow, HybridFlow):
        raise ConfigurationError(
            f"label={label}: this flow has no classifier; train one with architecture.name=hybrid."
        )
    batches = []
    for done in range(0, n, batch_size):
        count = min(batch_size, n - done)
        labels = None if label is None else torch.full((count,), label, device=flow.device)
        batches.append(flow.sample(count, labels, temperature=temperature, generator=generator).cpu())
        if watcher is not None:
            watcher.phase("samples", min(done + batch_size, n), n)
    return torch.cat(batches)


def draw_picture(flow: Flow, samples: Tensor, data: Dataset, path: Path) -> None:
    """Draw a grid of images, a 2-D density, or histograms of the columns of a table."""
    if isinstance(flow.preprocessing, ImagePreprocessing):
        scale = max(1, 32 // flow.event_shape[1])
        save_png(image_grid(samples, flow.preprocessing.reduced_levels), path, scale=scale)
    elif flow.event_shape == (2,):
        density_picture(flow.with_logdet(Exact()), data.test, samples, path)
    else:
        scatter_picture(data.test, samples, path, data.columns)
