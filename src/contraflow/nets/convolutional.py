"""The convolutional conditioner of Glow."""

from __future__ import annotations

from torch import Tensor, nn

from contraflow.nets.context import append_context
from contraflow.nets.mlp import zero_start


class ConvNet(nn.Module):
    """3×3 → 1×1 → 3×3 convolutions with ReLU between them, or one 3×3 convolution; the last one starts at zero.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), Appendix B, and the authors' code, whose couplings have three
    convolutions and whose priors have one. Their normalisation of hidden maps is left out.

    Args:
        inputs: input channels.
        outputs: output channels.
        hidden: hidden channels; ``None`` for the last convolution alone.
        context_features: width of a context ``(batch, context_features)``, appended to every pixel.

    >>> import torch
    >>> ConvNet(2, 4, 8)(torch.randn(5, 2, 6, 6)).shape
    torch.Size([5, 4, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int | None, *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        inputs += context_features
        layers: list[nn.Module] = []
        if hidden is not None:
            layers = [nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU()]
            inputs = hidden
        self.layers = nn.Sequential(*layers, zero_start(nn.Conv2d(inputs, outputs, 3, padding=1)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(append_context(x, context, self.context_features))
