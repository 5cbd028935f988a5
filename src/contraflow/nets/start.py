"""How a conditioner starts."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

_M = TypeVar("_M", bound=nn.Module)


def zero_start(layer: _M) -> _M:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
