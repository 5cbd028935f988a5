"""The standard normal base distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from contraflow.distributions.base import BaseDistribution


class StandardNormal(BaseDistribution):
    r"""p(z) = (2π)^{-D/2} exp(-‖z‖²/2) on events of a given shape.

    Args:
        event_shape: shape of one z.

    >>> base = StandardNormal((2,))
    >>> round(base.log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        # Carries dtype and device, so that samples follow flow.double() and flow.to(device).
        self.register_buffer("origin", torch.zeros(()), persistent=False)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z) in nats, ``(batch,)``."""
        flat = z.flatten(1)
        return -0.5 * (flat.square().sum(dim=1) + flat.shape[1] * math.log(2 * math.pi))

    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples of z, multiplied by the temperature, ``(n, *event_shape)``."""
        anchor, shape = self.anchor, (n, *self.event_shape)
        return torch.randn(shape, generator=generator, dtype=anchor.dtype, device=anchor.device) * temperature
