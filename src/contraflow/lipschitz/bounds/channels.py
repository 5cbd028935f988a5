"""Norms of single rows and columns: of an output or input feature of a matrix, of a channel of a convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.lipschitz.convolution import convolve_adjoint, within_reach
from contraflow.numerics import Order, order_number

#: 1/q of a column norm below which norm equivalence from the largest entry is used.
_NEARLY_INFINITE = 1e-3


def adjoint_weight(weight: Tensor) -> Tensor:
    """The transpose of a matrix, or the kernel of a convolution's adjoint."""
    transposed = weight.transpose(0, 1)
    return transposed if weight.ndim == 2 else transposed.flip(2, 3)


def column_norms(weight: Tensor, b: Order, size: tuple[int, int]) -> Tensor:
    """‖·‖_{1/b} of the column of every input, ``(in,)``; differentiable in the weight and in a tensor b.

    A convolution has a column for every input channel and pixel: this is the largest over the pixels, exact at its
    size (H, W). For 0 < b < 0.001 the result is an upper bound.
    """
    absolute = weight.abs()
    tiny = torch.finfo(weight.dtype).tiny
    if order_number(b) < _NEARLY_INFINITE:
        entries = weight[:, 0].numel()
        absolute = within_reach(absolute, size)
        return absolute.transpose(0, 1).flatten(1).amax(dim=1).clamp_min(tiny) * entries**b
    largest = absolute.detach().amax().clamp_min(tiny)
    powers = (absolute / largest) ** (1 / b)
    # An empty column takes any scale.
    return largest * _column_sums(powers, size).clamp_min(torch.finfo(weight.dtype).eps ** 2) ** b


def row_norms(weight: Tensor, b: Order, size: tuple[int, int]) -> Tensor:
    """‖·‖_{1/b} of the row of every output, ``(out,)``."""
    return column_norms(adjoint_weight(weight), b, size)


def _column_sums(weight: Tensor, size: tuple[int, int]) -> Tensor:
    if weight.ndim == 2:
        return weight.sum(dim=0)
    if min(size) >= weight.shape[-1]:  # some pixel is seen through every tap
        return weight.sum(dim=(0, 2, 3))
    return convolve_adjoint(weight.new_ones(1, len(weight), *size), weight)[0].flatten(1).amax(dim=1)
