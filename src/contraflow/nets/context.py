"""A conditioning input (context) as additional inputs of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.errors import ShapeError


def append_context(x: Tensor, context: Tensor | None, features: int) -> Tensor:
    """x with the context appended along dimension 1, the same at every pixel of an image.

    Args:
        x: ``(batch, channels, …)``.
        context: ``(batch, features)``; ignored where `features` is 0.
        features: number of context features that the network was built for.

    Raises:
        ShapeError: the context is missing or has another shape.

    >>> append_context(torch.zeros(2, 1, 4, 4), torch.ones(2, 3), 3).shape
    torch.Size([2, 4, 4, 4])
    """
    if not features:
        return x
    if context is None or tuple(context.shape) != (x.shape[0], features):
        given = "none" if context is None else f"one of shape {tuple(context.shape)}"
        raise ShapeError(f"the network needs a context of shape ({x.shape[0]}, {features}), and {given} was given.")
    maps = context.reshape(*context.shape, *[1] * (x.ndim - 2))
    return torch.cat([x, maps.expand(-1, -1, *x.shape[2:])], dim=1)
