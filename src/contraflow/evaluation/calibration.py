"""Calibration of a classifier: confidence against accuracy, and the expected calibration error."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, ShapeError


@dataclass(frozen=True)
class Reliability:
    r"""Confidence, the largest class probability of a row, against accuracy, in bins of equal width.

    Attributes:
        confidence, accuracy: mean over the rows of each bin, ``(bins,)``, float64; NaN for an empty bin.
        count: number of rows in each bin, long.
        error: expected calibration error Σ_b (n_b / n)·|accuracy_b - confidence_b|.
        standard_error: of the expected calibration error, by bootstrap over the rows.
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
        bins: number of bins of confidence in (0, 1].
        resamples: number of bootstrap samples for the standard error.
        seed: of the bootstrap.

    Raises:
        ShapeError: no rows, or shapes that do not match.
        ConfigurationError: bins below 1, or fewer than two resamples.

    >>> certain = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> reliability(certain, torch.tensor([0, 1])).error
    0.5
    """
    if probabilities.ndim != 2 or not len(labels) or tuple(labels.shape) != (len(probabilities),):
        raise ShapeError(
            f"expected probabilities (n, classes) and labels (n,) with n >= 1, not {tuple(probabilities.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if bins < 1 or resamples < 2:
        raise ConfigurationError(f"bins={bins}, resamples={resamples}: at least 1 bin and 2 resamples are needed.")
    confidence, prediction = probabilities.double().max(dim=1)
    correct = (prediction == labels).double()
    # Bins include their upper end: a confidence of 1 is in the last bin.
    bin_of_row = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = bin_of_row.bincount(minlength=bins)
    gap, rows = correct - confidence, len(labels)

    def error(chosen: Tensor) -> float:
        return bin_of_row[chosen].bincount(gap[chosen], minlength=bins).abs().sum().item() / rows

    generator = Generator().manual_seed(seed)
    errors = [error(torch.randint(rows, (rows,), generator=generator)) for _ in range(resamples)]
    return Reliability(
        bin_of_row.bincount(confidence, minlength=bins) / count,
        bin_of_row.bincount(correct, minlength=bins) / count,
        count,
        error(torch.arange(rows)),
        statistics.stdev(errors),
    )
