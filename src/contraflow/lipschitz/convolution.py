"""Zero-padded convolution and its adjoint, each by the faster of convolution and matrix product.

Where one side has a single channel (grey images), library convolutions leave most of the processor idle; gathering the
patches and one matrix product is 2 to 10 times faster (docs/decisions/001-single-channel-convolutions.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b for a kernel ``(out, in, k, k)`` with odd k, stride 1, padding k//2."""
    outputs, inputs, k, _ = weight.shape
    if k > 1 and inputs == 1:
        y = _gather(x, weight)
    elif k > 1 and outputs == 1:
        y = _scatter(x, weight.transpose(0, 1).flip(2, 3))
    else:
        return F.conv2d(x, weight, bias, padding=k // 2)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def convolve_adjoint(u: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ u for the same kernel."""
    outputs, inputs, k, _ = weight.shape
    if k > 1 and inputs == 1:
        return _scatter(u, weight)
    if k > 1 and outputs == 1:
        return _gather(u, weight.transpose(0, 1).flip(2, 3))
    return F.conv_transpose2d(u, weight, padding=k // 2)


def within_reach(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """The kernel with zeros at the taps that no pixel of a zero-padded image of that size sees data through."""
    k = weight.shape[-1]
    distance = (torch.arange(k, device=weight.device) - k // 2).abs()
    return weight * (distance < size[0])[:, None] * (distance < size[1])


def _gather(x: Tensor, weight: Tensor) -> Tensor:
    """Patches of x ``(batch, 1, H, W)`` times the kernel ``(out, 1, k, k)``; channels-last result."""
    batch, _, height, width = x.shape
    k = weight.shape[-1]
    patches = F.unfold(x, k, padding=k // 2).transpose(1, 2)
    return (patches @ weight.flatten(1).t()).reshape(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _scatter(u: Tensor, weight: Tensor) -> Tensor:
    """The adjoint of `_gather`: u ``(batch, out, H, W)`` times the kernel, added up where patches overlap."""
    batch, outputs, height, width = u.shape
    k = weight.shape[-1]
    patches = u.permute(0, 2, 3, 1).reshape(batch, height * width, outputs) @ weight.flatten(1)
    return F.fold(patches.transpose(1, 2), (height, width), k, padding=k // 2)
