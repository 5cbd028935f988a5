"""Estimators of tr J and ‖J‖_F² from products with Jᵀ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Generator, Tensor

from contraflow.errors import DomainError
from contraflow.logdet.estimators import count, unit_vectors
from contraflow.logdet.probes import Probe, Rademacher


@dataclass(frozen=True)
class Divergence(ABC):
    r"""Vectors v_p with E[Σ_p v_p v_pᵀ] = I, so that

    tr J = E[Σ_p v_pᵀ J v_p],   ‖J‖_F² = E[Σ_p ‖Jᵀ v_p‖²].
    """

    @abstractmethod
    def vectors(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """v_p for every row of x, ``(vectors, batch, *event)``."""

    @abstractmethod
    def __str__(self) -> str:
        """One phrase for reports."""


@dataclass(frozen=True)
class ExactDivergence(Divergence):
    """The unit vectors e_1, …, e_D: no noise, D products an evaluation; for small D."""

    def vectors(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return unit_vectors(x)

    def __str__(self) -> str:
        return "exact divergence"


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """v_p = ε_p/√P for random probes ε_p: unbiased, P products an evaluation.

    Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990; Grathwohl et al., FFJORD, 2019
    (arXiv:1810.01367), section 3.1.

    Args:
        probe: distribution of ε.
        probes: P.

    Raises:
        DomainError: fewer than one probe.
    """

    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise DomainError(f"probes={self.probes}: at least 1 is needed.")

    def vectors(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.probe.sample((self.probes, *x.shape), x, generator) / self.probes**0.5

    def __str__(self) -> str:
        return f"divergence by {count(self.probes, type(self.probe).__name__ + ' probe')}"
