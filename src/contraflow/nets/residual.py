"""The residual conditioner of Real NVP."""

from __future__ import annotations

from torch import Tensor, nn

from contraflow.nets.context import append_context
from contraflow.nets.mlp import zero_start


class ResidualConvNet(nn.Module):
    """A 3×3 convolution, residual blocks h + F(h) of two 3×3 convolutions after a ReLU each, and a 1×1 convolution.

    Dinh et al., Real NVP, 2017 (arXiv:1605.08803), section 4.1, without its batch and weight normalisation:
    the samples of a batch must not influence each other. Instead, the last convolution of the network and of every
    block starts at zero. In the authors' code the last convolution takes the sum of 1×1 convolutions of the first maps
    and of every block's; here it takes the last block's maps.

    Args:
        inputs: input channels.
        outputs: output channels.
        hidden: hidden channels.
        blocks: number of residual blocks.
        context_features: width of a context ``(batch, context_features)``, appended to every pixel.

    >>> import torch
    >>> ResidualConvNet(2, 4, 8, blocks=1)(torch.randn(5, 2, 6, 6)).shape
    torch.Size([5, 4, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, *, blocks: int, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        self.first = nn.Conv2d(inputs + context_features, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(_block(hidden) for _ in range(blocks))
        self.last = zero_start(nn.Conv2d(hidden, outputs, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(append_context(x, context, self.context_features))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h.relu())


def _block(channels: int) -> nn.Sequential:
    first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(nn.ReLU(), first, nn.ReLU(), zero_start(last))
