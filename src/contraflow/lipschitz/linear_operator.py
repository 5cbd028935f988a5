"""A bounded layer's linear map as a value: what norms act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class LinearOperator:
    """x ↦ W x over a leading dimension of inputs; or a stack of operators of one shape, each with an input of its own.

    Attributes:
        weight: W, ``(out, in)`` or the kernel ``(out, in, k, k)`` of a zero-padded convolution; ``(stack, …)`` of a
            stack.
        product: W, x ↦ W x.
        transpose: W ↦ the weight of the adjoint, which has the same `product`.
        size: (H, W) of a convolution's images; (1, 1) for a matrix.
        copies: N where the layer has this operator at each of N pixels.

    >>> import torch
    >>> W = torch.tensor([[1.0, 2.0]])
    >>> operator = LinearOperator(W, lambda W, x: x @ W.mT, lambda W: W.mT)
    >>> operator(torch.ones(1, 2)), operator.adjoint()(torch.ones(1, 1))
    (tensor([[3.]]), tensor([[1., 2.]]))
    """

    weight: Tensor
    product: Callable[[Tensor, Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]
    size: tuple[int, int] = (1, 1)
    copies: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(self.weight, x)

    def adjoint(self) -> LinearOperator:
        """u ↦ Wᵀu."""
        return self.at(self.transpose(self.weight))

    def at(self, weight: Tensor) -> LinearOperator:
        """The operator with another weight in the same place."""
        return replace(self, weight=weight)

    def double(self) -> LinearOperator:
        """The operator in float64."""
        return self.at(self.weight.double())
