"""Random probes v with E[v vᵀ] = I, for Hutchinson's trace E[vᵀ A v] = tr A."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

__all__ = ["Gaussian", "PairedRademacher", "Probe", "Rademacher"]


@dataclass(frozen=True)
class Probe(ABC):
    """A distribution of probes."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        """Probes ``(probes, batch, *event)``, uncorrelated between samples, with the dtype and device of `like`."""


@dataclass(frozen=True)
class Rademacher(Probe):
    """v_i = ±1 with probability one half; Var[vᵀAv] = 2 Σ_{i≠j} A_ij² for symmetric A.

    No other probes with independent entries have a smaller variance.

    Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
    """

    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        bits = torch.randint(0, 2, shape, generator=generator, device=like.device, dtype=torch.int8)
        return bits.to(like.dtype).mul_(2).sub_(1)


@dataclass(frozen=True)
class Gaussian(Probe):
    """v_i ~ N(0, 1); Var[vᵀAv] = 2‖A‖_F² for symmetric A. The paper's choice."""

    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class PairedRademacher(Probe):
    r"""Rademacher probes in pairs v, v ⊙ s with half of the signs s = -1: entries between unlike signs drop out.

        ½ (vᵀAv + (v ⊙ s)ᵀA(v ⊙ s)) = Σ_{s_i = s_j} A_ij v_i v_j

    v ⊙ s is also a Rademacher probe, so estimates stay unbiased; it is orthogonal to v where D is even. On images s is
    a checkerboard of the finest pixels, since convolutions couple neighbours most: of rows and columns, or of channels
    where a squeeze has moved pixels into them (a multiple of four channels). Otherwise s is -1 on a random half, drawn
    at every call, and the variance is (D - 2)/(D - 1) of that of two independent probes. A single probe is a
    Rademacher probe.

    Tang and Saad, A probing method for computing the diagonal of a matrix inverse, 2012. docs/decisions/005-probes.md.
    """

    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        probes, *rest = shape
        first = Rademacher().sample((-(-probes // 2), *rest), like, generator)
        if probes == 1:
            return first
        signs = _signs(tuple(rest[1:]), like, generator)
        return torch.stack([first, first * signs], dim=1).flatten(0, 1)[:probes]


def _signs(event: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    """±1 in the shape of an event, half of each (to within one)."""
    if len(event) == 3:
        channel, row, column = (torch.arange(size, device=like.device) for size in event)
        if event[0] % 4 == 0:
            # A 2×2 patch lies in four channels row by row; 0 and 3 are its diagonal.
            odd = ((channel + 1) // 2 % 2)[:, None, None].expand(event)
        else:
            odd = ((row[:, None] + column) % 2).expand(event)
    else:
        size = torch.Size(event).numel()
        odd = (torch.randperm(size, generator=generator, device=like.device) % 2).reshape(event)
    return (1 - 2 * odd).to(like.dtype)
