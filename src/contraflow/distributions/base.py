"""The contract of a base distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Generator, Tensor, nn


class BaseDistribution(nn.Module, ABC):
    """A density p(z) on the latent events of a flow.

    Attributes:
        event_shape: shape of one z.
        anchor: a tensor whose dtype and device the samples have.
    """

    event_shape: tuple[int, ...]
    anchor: Tensor

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z), or log p(z|context), in nats, ``(batch,)``."""

    @abstractmethod
    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples ``(n, *event_shape)``; a Gaussian's deviations from its mean are multiplied by the temperature."""
