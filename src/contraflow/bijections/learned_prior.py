"""A learned Gaussian for the half that is factored out."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.coupling import bounded, check_scale_bound, conditioned
from contraflow.errors import ShapeError


class LearnedPrior(Bijection):
    r"""(h, y) → (h, (y - μ(h))·exp(-log σ(h))) for the two halves of dimension 1; log|det| = -Σ log σ(h).

    The last map of a level of `MultiScale`: the half that leaves, y, then has the density N(μ(h), σ(h)²) given the
    half that stays, while the base remains a standard normal, so that the temperature of samples acts on σ. The
    log-scale is bounded as in `Coupling`.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), section 3.5 and the authors' code.

    Args:
        channels: size of dimension 1, even.
        conditioner: of h, as for `Coupling`; gives μ and, behind it in dimension 1, the log-scale.
        scale_bound: c > 0, in nats per number.

    Raises:
        ConfigurationError: c is not positive.
        ShapeError: an odd number of channels, or the conditioner gives another shape.

    >>> from contraflow.nets import ConvNet
    >>> LearnedPrior(4, ConvNet(2, 4, 8)).forward(torch.randn(5, 4, 3, 3)).shape
    torch.Size([5, 4, 3, 3])
    """

    def __init__(self, channels: int, conditioner: nn.Module, *, scale_bound: float = 2.0) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ShapeError(f"{channels} channels have no two halves.")
        self.channels = channels
        self.conditioner = conditioner
        self.scale_bound = check_scale_bound(scale_bound)

    def _halves(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h, the other half, μ(h) and log σ(h)."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ShapeError(f"LearnedPrior({self.channels}) got an input of shape {tuple(x.shape)}.")
        stays, leaves = x.chunk(2, dim=1)
        mean, log_scale = conditioned(self.conditioner, stays, context, self.channels).chunk(2, dim=1)
        return stays, leaves, mean, bounded(log_scale, self.scale_bound)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        stays, leaves, mean, log_scale = self._halves(x, context)
        return torch.cat([stays, (leaves - mean) * (-log_scale).exp()], dim=1), -log_scale.flatten(1).sum(1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        stays, leaves, mean, log_scale = self._halves(z, context)
        return torch.cat([stays, leaves * log_scale.exp() + mean], dim=1), log_scale.flatten(1).sum(1)
