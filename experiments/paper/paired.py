"""Differences between two settings, paired by seed, and whether they agree with the paper."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    r"""Mean of aᵢ - bᵢ over seeds i, and half the width of Student's 95 % confidence interval, infinite for one seed.

    Runs with the same seed share the data split, the order of the data and the random numbers of the initial weights,
    which reduces the variance of their difference.
    """

    mean: float
    half_width: float

    @classmethod
    def of(cls, a: Sequence[float], b: Sequence[float], grain: float = 0.0) -> Difference:
        """The difference between the scores of two settings.

        Args:
            a, b: scores for each seed.
            grain: spacing of the possible scores, such as one row's share of an accuracy. The variance of rounding,
                grain² / 12, is added for each score, since the scores of a few seeds may be equal by chance.

        >>> print(Difference.of([1.0, 1.1, 1.2], [2.0, 2.2, 2.1]))
        -1.000 ± 0.248
        """
        gaps = [first - second for first, second in zip(a, b, strict=True)]
        if len(gaps) < 2:
            return cls(gaps[0], math.inf)
        from scipy.stats import t

        error = math.sqrt((statistics.variance(gaps) + grain**2 / 6) / len(gaps))
        return cls(statistics.mean(gaps), float(t.ppf(0.975, len(gaps) - 1)) * error)

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half_width

    def __str__(self) -> str:
        width = f"± {self.half_width:.3f}" if math.isfinite(self.half_width) else "(one seed)"
        return f"{self.mean:+.3f} {width}"


def verdict(difference: Difference, expected: float) -> str:
    """Whether a difference has the sign `expected`, that of the paper.

    >>> verdict(Difference(-0.2, 0.1), expected=-1), verdict(Difference(0.05, 0.1), expected=-1)
    ('reproduced', 'not resolved')
    """
    if not difference.resolved:
        return "not resolved"
    return "reproduced" if difference.mean * expected > 0 else "contradicted"


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error, ``None`` for one seed."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.mean(values), error


def with_error(values: Sequence[float], places: int = 3) -> str:
    """Mean ± standard error over seeds, such as `1.874 ± 0.003`; the value alone for one seed.

    >>> with_error([1.0, 1.2]), with_error([1.0]), with_error([])
    ('1.100 ± 0.100', '1.000', '–')
    """
    if not values:
        return "–"
    mean, error = mean_and_error(values)
    return f"{mean:.{places}f}" if error is None else f"{mean:.{places}f} ± {error:.{places}f}"
