"""Vector fields f(t, z) of continuous flows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from contraflow.errors import unknown_name

#: Smooth activations, since the gradient of the divergence needs their second derivative.
FIELD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "tanh": torch.tanh,
}


class Concat(nn.Module):
    """W [t, h] + b: a linear map or convolution with time t as an additional first input.

    Grathwohl et al. 2019 (arXiv:1810.01367), section 4.

    Args:
        layer: W and b, with one more input than h has.

    >>> Concat(nn.Linear(1 + 3, 5))(torch.tensor(0.5), torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        time = t.expand(h.shape[0], 1, *h.shape[2:])
        return self.layer(torch.cat([time, h], dim=1))


class ConcatSquash(nn.Module):
    r"""(W h + b) ⊙ σ(a t + c) + d t: a linear map or convolution, gated and shifted by time channel by channel.

    This is the layer of FFJORD's code. Grathwohl et al. 2019 (arXiv:1810.01367).

    Args:
        layer: W and b, a linear map or a convolution.
        channels: output channels, along dimension 1.
        dimensions: number of dimensions after the channels: 0 for vectors, 2 for images.

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


#: (inputs, outputs) → a linear map or convolution.
_Make = Callable[[int, int], nn.Module]

#: How time enters a layer: name → (constructor of W and b, inputs, outputs, dimensions after the channels) ↦ layer.
FIELD_LAYERS: dict[str, Callable[[_Make, int, int, int], nn.Module]] = {
    "concat": lambda make, inputs, outputs, dimensions: Concat(make(1 + inputs, outputs)),
    "concatsquash": lambda make, inputs, outputs, dimensions: ConcatSquash(make(inputs, outputs), outputs, dimensions),
}


class VectorField(nn.Module):
    """f(t, z): layers that take t and z, with an activation between them.

    Args:
        layers: `Concat` or `ConcatSquash`; the first takes z, and the last has outputs of the shape of z.
        activation: name in `FIELD_ACTIVATIONS`.

    Raises:
        ConfigurationError: unknown activation.
    """

    def __init__(self, layers: Iterable[nn.Module], activation: str = "softplus") -> None:
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


def dense_field(
    features: int, hidden: Sequence[int], activation: str = "softplus", layer: str = "concatsquash"
) -> VectorField:
    """A field of vectors ``(batch, features)``, with hidden layers of the given widths.

    Args:
        features: D.
        hidden: widths of the hidden layers.
        activation: name in `FIELD_ACTIVATIONS`.
        layer: name in `FIELD_LAYERS`.

    Raises:
        ConfigurationError: unknown activation or layer.
    """
    return _field(nn.Linear, [features, *hidden, features], 0, activation, layer)


def conv_field(
    channels: int, hidden: Sequence[int], activation: str = "softplus", layer: str = "concatsquash", kernel: int = 3
) -> VectorField:
    """A field of images ``(batch, channels, H, W)``: zero-padded convolutions.

    Args:
        channels: C.
        hidden: channels of the hidden layers.
        activation, layer: as for `dense_field`.
        kernel: odd size of the kernels.

    Raises:
        ConfigurationError: unknown activation or layer.
    """
    convolution = partial(nn.Conv2d, kernel_size=kernel, padding=kernel // 2)
    return _field(convolution, [channels, *hidden, channels], 2, activation, layer)


def with_zero_output(field: VectorField) -> VectorField:
    """The same field with the last layer's parameters set to zero: f = 0, so that its flow is the identity.

    >>> with_zero_output(dense_field(3, (8,)))(torch.tensor(0.5), torch.ones(1, 3))
    tensor([[0., 0., 0.]], grad_fn=<AddBackward0>)
    """
    with torch.no_grad():
        for parameter in field.layers[-1].parameters():
            parameter.zero_()
    return field


def _field(make: _Make, widths: Sequence[int], dimensions: int, activation: str, layer: str) -> VectorField:
    if layer not in FIELD_LAYERS:
        raise unknown_name("layer", layer, FIELD_LAYERS)
    with_time = FIELD_LAYERS[layer]
    return VectorField([with_time(make, *pair, dimensions) for pair in pairwise(widths)], activation)
