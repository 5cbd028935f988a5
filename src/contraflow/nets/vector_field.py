"""Vector fields f(t, z) of continuous flows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from contraflow.errors import unknown_name

#: Smooth ones: the gradient of the divergence takes their second derivative.
FIELD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "tanh": torch.tanh,
}


class ConcatSquash(nn.Module):
    r"""(W h + b) ⊙ σ(a t + c) + d t: a linear map or convolution whose channels time gates and shifts.

    As in the code of FFJORD. Grathwohl et al. 2019 (arXiv:1810.01367).

    Args:
        layer: W and b, a linear map or a convolution.
        channels: of its output, in dimension 1.
        dimensions: of an image behind the channels: 0 for vectors, 2 for images.

    >>> ConcatSquash(nn.Linear(3, 5), 5)(torch.tensor(0.5), torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, layer: nn.Module, channels: int, dimensions: int = 0) -> None:
        super().__init__()
        shape = (channels, *[1] * dimensions)
        self.layer = layer
        self.gate = nn.Parameter(torch.empty(shape).uniform_(-1, 1))
        self.gate_bias = nn.Parameter(torch.empty(shape).uniform_(-1, 1))
        self.shift = nn.Parameter(torch.empty(shape).uniform_(-1, 1))

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.layer(h) * torch.sigmoid(self.gate * t + self.gate_bias) + self.shift * t


class VectorField(nn.Module):
    """f(t, z): `ConcatSquash` layers with an activation between them.

    Args:
        layers: the first takes z, the last gives its shape.
        activation: name in `FIELD_ACTIVATIONS`.

    Raises:
        ConfigurationError: unknown activation.
    """

    def __init__(self, layers: Iterable[ConcatSquash], activation: str = "softplus") -> None:
        super().__init__()
        if activation not in FIELD_ACTIVATIONS:
            raise unknown_name("activation", activation, FIELD_ACTIVATIONS)
        self.layers = nn.ModuleList(layers)
        self.activation = activation

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        first, *others = self.layers
        h = first(t, z)
        for layer in others:
            h = layer(t, FIELD_ACTIVATIONS[self.activation](h))
        return h


def dense_field(features: int, hidden: Sequence[int], activation: str = "softplus") -> VectorField:
    """A field of vectors ``(batch, features)``, with hidden layers of the given widths."""
    widths = [features, *hidden, features]
    return VectorField([ConcatSquash(nn.Linear(i, o), o) for i, o in pairwise(widths)], activation)


def conv_field(channels: int, hidden: Sequence[int], activation: str = "softplus", kernel: int = 3) -> VectorField:
    """A field of images ``(batch, channels, H, W)``: zero-padded convolutions, with hidden layers of so many
    channels."""
    widths = [channels, *hidden, channels]
    layers = [ConcatSquash(nn.Conv2d(i, o, kernel, padding=kernel // 2), o, 2) for i, o in pairwise(widths)]
    return VectorField(layers, activation)
