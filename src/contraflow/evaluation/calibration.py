"""Whether probabilities mean what they say: of classes, by reliability; of data, by the latent's normality."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, ShapeError


@dataclass(frozen=True)
class Reliability:
    r"""Confidence, the largest probability of a row, against accuracy, in bins of equal width.

    Attributes:
        confidence, accuracy: mean of each bin's rows, ``(bins,)``, float64; NaN where there are none.
        count: rows of each bin, long.
        error: expected calibration error Σ_b (n_b / n)·|accuracy_b - confidence_b|.
        standard_error: of it, by bootstrap over the rows.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    error: float
    standard_error: float


def reliability(
    probabilities: Tensor, labels: Tensor, *, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> Reliability:
    """The calibration of a classifier.

    Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, 2017 (arXiv:1706.04599).

    Args:
        probabilities: ``(n, classes)``, rows that sum to 1.
        labels: int64 ``(n,)``.
        bins: of confidence in (0, 1].
        resamples: bootstrap samples behind the standard error.
        seed: of those.

    Raises:
        ShapeError: no rows, or shapes that do not fit.
        ConfigurationError: bins below 1, or fewer than two resamples.

    >>> certain = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> reliability(certain, torch.tensor([0, 1])).error
    0.5
    """
    if probabilities.ndim != 2 or not len(labels) or tuple(labels.shape) != (len(probabilities),):
        raise ShapeError(
            f"probabilities (n, classes) and labels (n,) are needed, n >= 1, not {tuple(probabilities.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if bins < 1 or resamples < 2:
        raise ConfigurationError(f"bins={bins}, resamples={resamples}: at least 1 bin and 2 resamples are needed.")
    confidence, guess = probabilities.double().max(dim=1)
    correct = (guess == labels).double()
    # Bins are closed above: a confidence of 1 belongs to the last.
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = place.bincount(minlength=bins)
    gap, rows = correct - confidence, len(labels)

    def error(chosen: Tensor) -> float:
        return place[chosen].bincount(gap[chosen], minlength=bins).abs().sum().item() / rows

    generator = Generator().manual_seed(seed)
    errors = [error(torch.randint(rows, (rows,), generator=generator)) for _ in range(resamples)]
    return Reliability(
        place.bincount(confidence, minlength=bins) / count,
        place.bincount(correct, minlength=bins) / count,
        count,
        error(torch.arange(rows)),
        statistics.stdev(errors),
    )
