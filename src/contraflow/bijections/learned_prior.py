"""A learned Gaussian prior for the channels that are factored out."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.coupling import bounded, check_scale_bound, conditioned
from contraflow.errors import ShapeError


class LearnedPrior(Bijection):
    r"""(h, y) → (h, (y - μ(h))·exp(-log σ(h))) for the two halves of dimension 1; log|det| = -Σ log σ(h).

    As the last map of a level of `MultiScale`, it gives the factored-out half y the density N(μ(h), σ(h)²) conditioned
    on the other half h. The base remains a standard normal, so that the sampling temperature scales σ. The log-scale is
    bounded as in `Coupling`.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), section 3.5 and the authors' code.

    Args:
        channels: size of dimension 1, even.
        conditioner: a function of h as for `Coupling`; returns μ and the log-scale, concatenated along dimension 1.
        scale_bound: c > 0, in nats per element.

    Raises:
        ConfigurationError: c is not positive.
        ShapeError: the number of channels is odd, or the conditioner's output has the wrong shape.

    >>> from contraflow.nets import ConvNet
    >>> LearnedPrior(4, ConvNet(2, 4, 8)).forward(torch.randn(5, 4, 3, 3)).shape
    torch.Size([5, 4, 3, 3])
    """

    def __init__(self, channels: int, conditioner: nn.Module, *, scale_bound: float = 2.0) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ShapeError(f"LearnedPrior({channels}): the number of channels must be even and positive.")
        self.channels = channels
        self.conditioner = conditioner
        self.scale_bound = check_scale_bound(scale_bound)

    def _halves(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h, y, μ(h) and log σ(h)."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ShapeError(f"LearnedPrior({self.channels}) got an input of shape {tuple(x.shape)}.")
        h, y = x.chunk(2, dim=1)
        mean, log_scale = conditioned(self.conditioner, h, context, self.channels).chunk(2, dim=1)
        return h, y, mean, bounded(log_scale, self.scale_bound)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        h, y, mean, log_scale = self._halves(x, context)
        return torch.cat([h, (y - mean) * (-log_scale).exp()], dim=1), -log_scale.flatten(1).sum(1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        h, y, mean, log_scale = self._halves(z, context)
        return torch.cat([h, y * log_scale.exp() + mean], dim=1), log_scale.flatten(1).sum(1)
