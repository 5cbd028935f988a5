"""Means with a given standard error by Stein's two-stage procedure, for many means at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# rows (long, may repeat) ↦ one new, independent draw for each
Draw = Callable[[Tensor], Tensor]


class Means(NamedTuple):
    """Estimates of n expectations.

    Attributes:
        value: means, ``(n,)``, float64.
        standard_error: of each mean.
        draws: number of draws of each mean, long.
        degrees_of_freedom: of the variance estimate in the standard error, long.
    """

    value: Tensor
    standard_error: Tensor
    draws: Tensor
    degrees_of_freedom: Tensor


def fixed_means(draw: Draw, n: int, draws: int, batch_size: int) -> Means:
    """Means over a given number of draws; the standard error is NaN where draws = 1."""
    counts = torch.full((n,), draws)
    value, variance = _moments(draw, counts, batch_size)
    return Means(value, (variance / draws).sqrt(), counts, counts - 1)


def two_stage_means(
    draw: Draw, n: int, target: float, budget: int, batch_size: int, *, pilot: int = 16, least: int = 4
) -> Means:
    r"""Means with standard errors of at most `target`, or as many draws as the budget allows.

    A pilot of m draws gives s²; it fixes N = max(`least`, ⌈s²/target²⌉), capped at budget - m. The value is the mean
    of N fresh draws, its standard error s/√N: since s is independent of them, the value is unbiased whatever the law
    of the draws, and (value - mean)/(s/√N) is exactly t-distributed with m - 1 degrees of freedom for normal ones
    (Stein, A two-sample test for a linear hypothesis whose power is independent of the variance, 1945). Stopping as
    soon as a running standard error falls below the target would favour draws that happen to lie close together, and
    would underestimate the error. docs/maths/log-density-error-bar.md.
    """
    pilots = torch.full((n,), pilot)
    _, variance = _moments(draw, pilots, batch_size)
    wanted = torch.ceil(variance / target**2).nan_to_num(nan=math.inf).clamp(least, budget - pilot).long()
    value, _ = _moments(draw, wanted, batch_size)
    return Means(value, (variance / wanted).sqrt(), wanted, pilots - 1)


def _moments(draw: Draw, counts: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of `counts` draws of each row; rows that have all their draws leave the batch."""
    n, most = len(counts), int(counts.max()) if len(counts) else 0
    rows = torch.cat([torch.arange(0), *((counts > done).nonzero()[:, 0] for done in range(most))])
    chunks = [draw(chunk).detach().double().cpu() for chunk in rows.split(batch_size)] if len(rows) else []
    values = torch.cat([torch.zeros(0, dtype=torch.float64), *chunks])
    mean = torch.zeros(n, dtype=torch.float64).index_add(0, rows, values) / counts
    squares = torch.zeros(n, dtype=torch.float64).index_add(0, rows, (values - mean[rows]).square())
    return mean, squares / (counts - 1)
