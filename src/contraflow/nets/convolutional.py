"""The convolutional conditioner of Glow."""

from __future__ import annotations

from torch import Tensor, nn

from contraflow.nets.context import append_context
from contraflow.nets.start import zero_start


class ConvNet(nn.Module):
    """3×3 → 1×1 → 3×3 convolutions with ReLU between them; the last one starts at zero.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), Appendix B; without its normalisation of hidden maps.

    Args:
        inputs: channels in.
        outputs: channels out.
        hidden: channels between.
        context_features: width of a context ``(batch, context_features)``, appended to every pixel.

    >>> import torch
    >>> ConvNet(2, 4, 8)(torch.randn(5, 2, 6, 6)).shape
    torch.Size([5, 4, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        first = nn.Conv2d(inputs + context_features, hidden, 3, padding=1)
        last = zero_start(nn.Conv2d(hidden, outputs, 3, padding=1))
        self.layers = nn.Sequential(first, nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(append_context(x, context, self.context_features))
