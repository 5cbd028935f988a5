"""Names for tensors that partial derivatives are taken by."""

from __future__ import annotations

from torch import Tensor


def alias(tensor: Tensor) -> Tensor:
    """The same values as a node of their own, for derivatives by this tensor alone.

    A derivative by a tensor that others depend on (a weight, and its scale) goes through those others too; one by its
    alias does not, and still has a graph to the tensor itself.

    >>> import torch
    >>> weight = torch.tensor(2.0, requires_grad=True)
    >>> scale = 1 / weight
    >>> by_weight, by_scale = alias(weight), alias(scale)
    >>> [one.item() for one in torch.autograd.grad(by_weight * by_scale, [by_weight, by_scale])]
    [0.5, 2.0]
    """
    return tensor.view_as(tensor)
