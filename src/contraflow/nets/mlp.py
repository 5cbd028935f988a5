"""The dense conditioner: a multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from contraflow.nets.context import append_context

_M = TypeVar("_M", bound=nn.Module)


def zero_start(layer: _M) -> _M:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last one starts at zero, so a coupling starts as the identity.

    Args:
        inputs: input features.
        outputs: output features.
        hidden: widths of the hidden layers.
        context_features: width of a context ``(batch, context_features)`` that is appended to the input.

    >>> import torch
    >>> MLP(2, 3, (8,))(torch.randn(5, 2)).abs().max().item()
    0.0
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        widths = [inputs + context_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, zero_start(nn.Linear(widths[-1], outputs)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(append_context(x, context, self.context_features))
