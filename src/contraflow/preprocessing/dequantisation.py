"""Uniform dequantisation: integer pixels to real numbers by adding noise, and back.

A density q over [0, levels)ᴰ gives a lower bound on the probability of an integer image x (Jensen's inequality):

    log P(x) = log ∫_{[0,1)ᴰ} q(x + u) du >= E_u log q(x + u),  u ~ U[0, 1)ᴰ.

L. Theis, A. van den Oord, M. Bethge, "A note on the evaluation of generative models", 2016 (arXiv:1511.01844).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from contraflow.errors import DomainError

_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float32, torch.float64)


def check_levels(x: Tensor, levels: int) -> Tensor:
    """x in floating point, checked to hold the integers 0…levels − 1; an integer tensor gets torch's default dtype.

    Raises:
        DomainError: x has another dtype, or a value is NaN, a fraction or out of range; the message shows the value.
    """
    if x.dtype not in (*_INTEGERS, *_FLOATS):
        raise DomainError(f"expected integer pixels as uint8, integers, float32 or float64, got {x.dtype}.")
    values = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if values.numel() == 0:
        return values
    if bool((values != values.floor()).any()):  # also true for NaN, which differs from itself
        raise DomainError(
            f"expected integer pixels 0…{levels - 1}, got {_first(values, values != values.floor())}. Pass pixels "
            "as they are stored, not scaled to [0, 1]: the preprocessing scales them."
        )
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > levels - 1:
        raise DomainError(f"expected pixels in 0…{levels - 1}, got values from {low:g} to {high:g}. Check `levels`.")
    return values


def dequantise(x: Tensor, generator: Generator | None = None) -> Tensor:
    """x + u with u ~ U[0, 1), for floating-point x with integral values; floor(x + u) is exactly x.

    >>> x = torch.full((1000,), 255.0)
    >>> bool((dequantise(x).floor() == x).all())
    True
    """
    return add_noise(x, uniform_noise(x, generator))


def uniform_noise(x: Tensor, generator: Generator | None = None) -> Tensor:
    """u ~ U[0, 1) in the shape and dtype of x."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def add_noise(x: Tensor, noise: Tensor) -> Tensor:
    """x + u for integral x and u in [0, 1], kept below the next level, so that floor(x + u) is exactly x."""
    # In float32, 255 + (1 − 2⁻²⁴) rounds to 256, which belongs to the next level, of probability zero.
    below_next = torch.nextafter(x.detach() + 1, x.detach())
    return torch.minimum(x + noise, below_next)


def quantise(x: Tensor, levels: int) -> Tensor:
    """Integer pixels from real ones: floor(x), clamped to 0…levels − 1, as uint8.

    Raises:
        DomainError: x holds NaN.

    >>> quantise(torch.tensor([-0.2, 3.7, 256.4]), levels=256).tolist()
    [0, 3, 255]
    """
    if bool(torch.isnan(x).any()):
        raise DomainError("NaN cannot be turned into a pixel; the sample that holds it is invalid.")
    return x.floor().clamp(0, levels - 1).to(torch.uint8)


def _first(values: Tensor, bad: Tensor) -> float:
    return values[bad][0].item()
