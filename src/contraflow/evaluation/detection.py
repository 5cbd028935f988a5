"""How well a score detects out-of-distribution data: AUROC with confidence interval, average precision, FPR95."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from contraflow.errors import DomainError


@dataclass(frozen=True)
class Detection:
    """How well a score separates in-distribution rows (inside) from out-of-distribution rows (outside).

    A higher score indicates an out-of-distribution row.

    Attributes:
        auroc: P(score outside > score inside), ties counted half; ½ is chance, and less is worse than chance.
        standard_error: of the AUROC, DeLong's.
        low, high: 95 % confidence interval of the AUROC.
        average_precision: area under the precision–recall curve with outside as the positive class; chance is the share
            of outside rows.
        false_positive_rate: share of outside rows accepted by the threshold that accepts 95 % of inside rows (FPR95).
        inside, outside: numbers of rows.
    """

    auroc: float
    standard_error: float
    low: float
    high: float
    average_precision: float
    false_positive_rate: float
    inside: int
    outside: int


def detect(inside: Tensor, outside: Tensor) -> Detection:
    r"""Measure how well a score separates out-of-distribution rows from in-distribution rows.

    The AUROC is the Mann-Whitney statistic θ = mean of ψ(x_i, y_j), ψ = [y > x] + ½[y = x]. With V_j the mean of ψ
    over inside rows and W_i that over outside ones, Var θ = Var V / outside + Var W / inside (E. DeLong, D. DeLong,
    D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves",
    Biometrics 44, 1988). The interval is computed for log θ/(1 − θ), so it stays within (0, 1). That variance is
    useless where the sets hardly overlap. There min(inside, outside) disjoint pairs count as independent trials, none
    of which may have failed: no interval ends nearer to 1 than 0.025^(1/trials), nor nearer to 0.

    Args:
        inside, outside: scores ``(n,)`` and ``(m,)``, infinities allowed.

    Raises:
        DomainError: a score is NaN, or a set has fewer than two scores.

    >>> detection = detect(torch.arange(0.0, 10.0), torch.arange(5.0, 15.0))
    >>> round(detection.auroc, 3), detection.low < 0.875 < detection.high
    (0.875, True)
    """
    inside, outside = (scores.detach().double().cpu() for scores in (inside, outside))
    _check(inside, outside)
    below = _share_below(inside, outside)
    above = 1 - _share_below(outside, inside)
    auroc = below.mean().item()
    error = math.sqrt(below.var().item() / len(outside) + above.var().item() / len(inside))
    low, high = _interval(auroc, error, min(len(inside), len(outside)))
    threshold = inside.sort().values[math.ceil(0.95 * len(inside)) - 1]
    accepted = (outside <= threshold).double().mean().item()
    precision = _average_precision(inside, outside)
    return Detection(auroc, error, low, high, precision, accepted, len(inside), len(outside))


def _check(inside: Tensor, outside: Tensor) -> None:
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.dim() != 1 or len(scores) < 2:
            raise DomainError(f"{name}: expected at least two scores of shape (n,), not shape {tuple(scores.shape)}.")
        if bool(scores.isnan().any()):
            raise DomainError(f"{name}: the score of row {int(scores.isnan().nonzero()[0, 0])} is NaN.")


def _share_below(rows: Tensor, values: Tensor) -> Tensor:
    """Share of rows below each value, ties counted half."""
    ordered = rows.sort().values
    first, last = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (first + last).double() / (2 * len(rows))


def _interval(auroc: float, error: float, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of an AUROC."""
    nearest = 0.025 ** (1 / trials)
    if auroc in (0.0, 1.0):
        return (nearest, 1.0) if auroc == 1.0 else (0.0, 1 - nearest)
    middle = math.log(auroc / (1 - auroc))
    half = NormalDist().inv_cdf(0.975) * error / (auroc * (1 - auroc))
    return min(_logistic(middle - half), nearest), max(_logistic(middle + half), 1 - nearest)


def _logistic(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _average_precision(inside: Tensor, outside: Tensor) -> float:
    """Average precision Σ (R_n − R_{n−1}) P_n over the distinct scores, from the highest down."""
    scores = torch.cat([inside, outside])
    thresholds = scores.unique().flip(0)
    true_positives = len(outside) - torch.searchsorted(outside.sort().values, thresholds)
    positives = true_positives + len(inside) - torch.searchsorted(inside.sort().values, thresholds)
    gained = true_positives.diff(prepend=torch.zeros(1, dtype=true_positives.dtype))
    return ((gained * true_positives).double() / (positives * len(outside))).sum().item()
