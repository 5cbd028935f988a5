"""`BaseDistribution`, the interface of every base distribution."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

from torch import Generator, Tensor, nn

from contraflow.errors import ConfigurationError


class BaseDistribution(nn.Module, ABC):
    """A density p(z) on the latent events of a flow.

    A subclass has at least one parameter or buffer, which carries the dtype and device of z.

    Attributes:
        event_shape: shape of one z.
    """

    event_shape: tuple[int, ...]

    @property
    def anchor(self) -> Tensor:
        """The first parameter or buffer, whose dtype and device the samples have.

        Raises:
            ConfigurationError: there is none.
        """
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor
        raise ConfigurationError(
            f"{type(self).__name__} has no parameter and no buffer, so its samples have no dtype and device: register "
            "a buffer."
        )

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z), or log p(z|context), in nats, ``(batch,)``."""

    @abstractmethod
    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples ``(n, *event_shape)``; the temperature multiplies the deviations from the mean of a Gaussian."""
