"""Truncation laws: distributions of the number of further terms of the series that a sample computes."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import DomainError


@dataclass(frozen=True)
class TruncationLaw(ABC):
    """The distribution of a number of terms N."""

    @abstractmethod
    def survival(self, k: int) -> float:
        """P(N >= k)."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The smallest n with P(N <= n) >= u, for u in [0, 1); long, same shape."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """E[N]."""


@dataclass(frozen=True)
class Geometric(TruncationLaw):
    r"""P(N >= k) = (1 - p)^(k-1) for k = 1, 2, …; E[N] = 1/p.

    With powers of the Jacobian that decay like ρ^k, the roulette's variance is finite if ρ² < 1 - p and
    infinite if ρ² > 1 - p (docs/maths/russian-roulette.md).

    Args:
        p: the probability to stop after a term, between 0 and 1.

    >>> Geometric(0.5).survival(3), Geometric(0.5).mean
    (0.25, 2.0)
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise DomainError(f"Geometric(p={self.p}): p must lie strictly between 0 and 1.")

    def survival(self, k: int) -> float:
        return (1 - self.p) ** max(0, k - 1)

    def quantile(self, u: Tensor) -> Tensor:
        return 1 + torch.floor(torch.log1p(-u.double()) / math.log1p(-self.p)).long()

    @property
    def mean(self) -> float:
        return 1 / self.p


@dataclass(frozen=True)
class Poisson(TruncationLaw):
    r"""P(N = k) = e^(-λ) λ^k / k! for k = 0, 1, …; E[N] = λ.

    Its tail falls faster than any geometric one, so the roulette's variance is infinite for every ρ > 0; the
    reference implementation trains with it and 2 exact terms.

    Args:
        rate: the mean number of terms λ, in (0, 100].

    >>> round(Poisson(2.0).survival(1), 4)
    0.8647
    """

    rate: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 100:
            raise DomainError(f"Poisson(rate={self.rate}): the rate must lie in (0, 100].")

    def _mass(self, k: int) -> float:
        return math.exp(-self.rate + k * math.log(self.rate) - math.lgamma(k + 1))

    def survival(self, k: int) -> float:
        if k <= 0:
            return 1.0
        # Summed from the small end of the tail: 1 - cdf would cancel to zero for large k.
        last = k + 40 + int(2 * self.rate)
        return sum(self._mass(j) for j in range(last, k - 1, -1))

    def quantile(self, u: Tensor) -> Tensor:
        upper = torch.tensor(_cumulative(self), dtype=torch.float64, device=u.device)
        return torch.searchsorted(upper, u.double().clamp_max(upper[-1].item()), right=False)

    @property
    def mean(self) -> float:
        return self.rate


@functools.lru_cache
def _cumulative(law: Poisson) -> tuple[float, ...]:
    """P(N <= k) for k = 0, 1, … until it is 1."""
    return tuple(1 - law.survival(k + 1) for k in range(60 + int(4 * law.rate)))


def systematic_uniforms(n: int, generator: Generator | None, device: torch.device) -> Tensor:
    r"""Stratified (systematic) draws u_b = (U + b/n) mod 1, b = 0 … n-1, with one U ~ U[0, 1).

    Each u_b alone is exactly uniform, so an estimator that uses one of them stays unbiased; together they fill the
    unit interval evenly, so the number of samples with N >= k is n·P(N >= k) to within one
    (Cochran, Sampling Techniques, 1977, chapter 8). See docs/maths/stratified-draws.md.
    """
    start = torch.rand((), generator=generator, device=device, dtype=torch.float64)
    return torch.remainder(start + torch.arange(n, device=device, dtype=torch.float64) / max(n, 1), 1.0)


def uniforms(n: int, *, stratified: bool, generator: Generator | None, device: torch.device) -> Tensor:
    """n numbers, each uniform on [0, 1), in float64: systematic draws, or independent ones as in the paper."""
    if stratified:
        return systematic_uniforms(n, generator, device)
    return torch.rand(n, generator=generator, device=device, dtype=torch.float64)


def draw_terms(
    law: TruncationLaw, n: int, *, stratified: bool, generator: Generator | None, device: torch.device
) -> Tensor:
    """n draws of N, long ``(n,)``."""
    return law.quantile(uniforms(n, stratified=stratified, generator=generator, device=device))
