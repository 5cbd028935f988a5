"""`Bijection`, the interface of every invertible map."""

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

    `forward` maps data to latent, z = f(x); `inverse` maps back, x = f⁻¹(z). Each direction returns its own
    log-determinant, which has shape ``(batch,)``, is in nats and is *added* to a log-density:

        log p_X(x) = log p_Z(f(x)) + log|det ∂f/∂x|.

    A subclass implements the two abstract methods. By default `forward` and `inverse` call them and drop the
    log-determinant; a map whose log-determinant costs more than its value (a residual block) overrides them.

    All methods take:
        x or z: Tensor ``(batch, *event)``; never changed in place.
        context: conditioning input ``(batch, …)``, or ``None``.
        generator: source of all randomness; ``None`` means torch's default generator.

    Attributes:
        estimator_name: how the log-determinant is estimated, for reports; ``None`` if it has a closed form.
        in_float64: whether this map, as the preprocessing of a `Flow`, receives float64 and integer data in float64,
            because differences of large numbers need all digits; the `Flow` casts the result to its own dtype. Other
            maps receive data in the flow's dtype.
        dequantisation: the noise that this map adds to integer data, ``"uniform"`` or ``"variational"``; ``None`` if it
            adds none.
    """

    estimator_name: str | None = None
    in_float64: bool = False
    dequantisation: str | None = None

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
        """Use another estimator of the log-determinant; `with_logdet` calls this on its copy of the map.

        By default there is no estimator to replace. A map that overrides this method also handles its own submodules,
        which `with_logdet` then does not copy.
        """

    def quantise(self, x: Tensor) -> Tensor:
        """Samples x in the form of the data: rounded to integers where this map adds noise to integers.

        `Flow.sample` calls this method of its preprocessing. A map that adds no noise returns x.
        """
        return x

    def inverse_lipschitz_bound(self) -> float:
        """An upper bound L with ‖f⁻¹(z) - f⁻¹(z')‖₂ <= L·‖z - z'‖₂; infinity if none is known."""
        return math.inf

    def forward_lipschitz_bound(self) -> float:
        """An upper bound L with ‖f(x) - f(x')‖₂ <= L·‖x - x'‖₂; infinity if none is known."""
        return math.inf


def with_logdet(module: _M, logdet: LogDetEstimator) -> _M:
    """A copy of the module whose maps use another log-determinant estimator; parameters and buffers are shared.

    `module` itself is not changed, so a flow for training and a flow for evaluation can be used side by side.
    """
    twin = copy.copy(module)
    if isinstance(twin, Bijection) and type(twin).adopt is not Bijection.adopt:
        twin.adopt(logdet)
    else:
        twin._modules = {name: child and with_logdet(child, logdet) for name, child in module._modules.items()}
    return twin
