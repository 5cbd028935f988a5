"""Random probes v with E[v vᵀ] = I, for Hutchinson's trace E[vᵀ A v] = tr A."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Probe(ABC):
    """A distribution of probes."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        """Independent probes of `shape`, with the dtype and device of `like`."""


@dataclass(frozen=True)
class Rademacher(Probe):
    """v_i = ±1 with probability one half; Var[vᵀAv] = 2 Σ_{i≠j} A_ij² for symmetric A, the least there is.

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
