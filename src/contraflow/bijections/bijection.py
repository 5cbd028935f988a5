"""The contract that every map keeps."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Generator, Tensor, nn

from contraflow.logdet import LogDetEstimator

_M = TypeVar("_M", bound=nn.Module)


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

    Attributes:
        estimator_name: how the log-determinant is estimated, for reports; ``None`` where it is in closed form.
        in_float64: whether a `Flow` hands it float64 and integer data as they are where it is the preprocessing, and
            casts what it gives: differences of large numbers need that. Others are handed the flow's dtype.
    """

    estimator_name: str | None = None
    in_float64: bool = False

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

    def adopt(self, logdet: LogDetEstimator) -> None:
        """Use another estimator of the log-determinant; `with_logdet` calls it on its copy of this map.

        A map in closed form has nothing to adopt. The children of a map that overrides it are its own matter, and are
        not copied.
        """

    def quantise(self, x: Tensor) -> Tensor:
        """Samples as data look, where this map is a flow's preprocessing: integers where it adds noise to integers.

        A map that adds no noise leaves samples as they are.
        """
        return x

    def inverse_lipschitz_bound(self) -> float:
        """A number with ‖f⁻¹(z) - f⁻¹(z')‖₂ <= it · ‖z - z'‖₂, from above; infinity where none is known."""
        return math.inf


def with_logdet(module: _M, logdet: LogDetEstimator) -> _M:
    """The same module, sharing all parameters and buffers, whose maps use another log-determinant estimator.

    `module` itself is not changed: training and evaluation estimators live side by side.
    """
    twin = copy.copy(module)
    if isinstance(twin, Bijection) and type(twin).adopt is not Bijection.adopt:
        twin.adopt(logdet)
    else:
        twin._modules = {name: child and with_logdet(child, logdet) for name, child in module._modules.items()}
    return twin
