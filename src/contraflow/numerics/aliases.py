"""Aliases of tensors, to take partial derivatives with respect to one of them."""

from __future__ import annotations

from torch import Tensor


def alias(tensor: Tensor) -> Tensor:
    """A view of the tensor as a node of its own in the graph, for partial derivatives with respect to it alone.

    A derivative with respect to a tensor that others depend on (a weight, and its scale) also goes through those
    others. One with respect to its alias does not, and the alias still has a graph to the tensor itself.

    >>> import torch
    >>> weight = torch.tensor(2.0, requires_grad=True)
    >>> scale = 1 / weight
    >>> by_weight, by_scale = alias(weight), alias(scale)
    >>> [gradient.item() for gradient in torch.autograd.grad(by_weight * by_scale, [by_weight, by_scale])]
    [0.5, 2.0]
    """
    return tensor.view_as(tensor)
