"""The contract that every map keeps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Generator, Tensor, nn


class Bijection(nn.Module, ABC):
    r"""An invertible map f between data x and latent z, with its log-determinant.

    `forward` goes from data to latent, z = f(x); `inverse` goes back, x = f⁻¹(z). A log-determinant belongs to the
    direction called, is meant to be *added* to a log-density, has shape ``(batch,)`` and is in nats:

        log p_X(x) = log p_Z(f(x)) + log|det ∂f/∂x|.

    A subclass writes the two abstract methods. Where the log-determinant costs more than the map (a residual block),
    it also writes `forward` and `inverse`, which otherwise drop it.

    All methods take:
        x or z: Tensor ``(batch, *event)``; never changed in place.
        context: conditioning input ``(batch, …)``, or ``None``.
        generator: source of all randomness; ``None`` means torch's default one.
    """

    @abstractmethod
    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = f(x) and log|det ∂f/∂x|."""

    @abstractmethod
    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """x = f⁻¹(z) and log|det ∂f⁻¹/∂z|."""

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z = f(x)."""
        return self.forward_and_logdet(x, context, generator=generator)[0]

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x = f⁻¹(z)."""
        return self.inverse_and_logdet(z, context, generator=generator)[0]

    def inverse_lipschitz_bound(self) -> float:
        """A number with ‖f⁻¹(z) - f⁻¹(z')‖₂ <= it · ‖z - z'‖₂, from above; infinity where none is known."""
        return math.inf
