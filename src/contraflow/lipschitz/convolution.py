"""Zero-padded convolution, its adjoint and its kernel gradient, each by the faster of convolution and matrix product.

Library convolutions leave most of the processor idle where one side has few channels (the data); matrix products with
the patches are 1.5 to 10 times faster on CPUs, and on GPUs where few channels leave
(docs/decisions/001-convolutions-with-few-channels.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.grad import conv2d_weight

#: From so many channels on, the library is faster: where they enter, and where they leave.
_FEW_IN = {"cpu": 2}
_FEW_OUT = {"cpu": 5, "cuda": 4}

#: Channels of the narrower side up to which the patches of a stack of images are worth their memory.
_FEW_EACH = 64

#: Pixels up to which patches are gathered by one index for the whole batch; `torch.nn.functional.unfold` goes image by
#: image, which costs more than the copy itself where images are small.
_FEW_PIXELS = {"cpu": 256}

#: From so many rows on, the library's 1×1 convolution is as fast as a product and keeps channels-last memory.
_MANY_ROWS = 16


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b for a kernel ``(out, in, k, k)`` with odd k, stride 1, padding k//2."""
    outputs, inputs, k, _ = weight.shape
    if _few(inputs, _FEW_IN, k, x):
        y = _gather(x, weight)
    elif _few(outputs, _FEW_OUT, k, x):
        y = _scatter(x, weight)
    elif k == 1 and len(x) < _MANY_ROWS:
        y = (_rows(x) @ weight[:, :, 0, 0].t()).reshape(len(x), *x.shape[2:], outputs).permute(0, 3, 1, 2)
    else:
        return F.conv2d(channels_last(x), weight, bias, padding=k // 2)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def convolve_adjoint(u: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ u for the same kernel: the convolution with its transpose, mirrored, which is faster than a transposed one."""
    return convolve(u, mirrored(weight))


def mirrored(weight: Tensor) -> Tensor:
    """The kernel of the adjoint ``(…, in, out, k, k)``."""
    transpose = weight.transpose(-4, -3)
    turned = transpose if weight.shape[-1] == 1 else transpose.flip(-2, -1)
    return turned.movedim(-3, -1).contiguous().movedim(-1, -3)


def convolve_each(x: Tensor, weights: Tensor) -> Tensor:
    """W_i x_i for a stack of kernels ``(n, out, in, k, k)`` and as many images ``(n, in, H, W)``."""
    outputs, inputs, k = weights.shape[1], weights.shape[2], weights.shape[-1]
    if k > 1 and min(inputs, outputs) > _FEW_EACH:
        return torch.cat([convolve(image, weight) for image, weight in zip(x.split(1), weights, strict=True)])
    if inputs <= outputs:
        return (weights.flatten(2) @ _patches(x, k).transpose(1, 2)).unflatten(2, x.shape[2:])
    taps = weights.flip(3, 4).permute(0, 1, 3, 4, 2).flatten(1, 3)
    return F.fold(taps @ x.flatten(2), x.shape[2:], k, padding=k // 2)


def kernel_gradient(x: Tensor, y: Tensor, k: int) -> Tensor:
    """∂⟨y, W x⟩/∂W ``(out, in, k, k)``, summed over the batch."""
    if k == 1:
        return (_rows(y).t() @ _rows(x))[:, :, None, None]
    outputs, inputs = y.shape[1], x.shape[1]
    if _few(inputs, _FEW_IN, k, x):
        return (_pixels(y).flatten(0, 1).t() @ _patches(x, k).flatten(0, 1)).reshape(outputs, inputs, k, k)
    if _few(outputs, _FEW_OUT, k, x):
        flipped = (_patches(y, k).flatten(0, 1).t() @ _pixels(x).flatten(0, 1)).reshape(outputs, k, k, inputs)
        return flipped.permute(0, 3, 1, 2).flip(2, 3)
    return conv2d_weight(x, (outputs, inputs, k, k), y, padding=k // 2)


def channels_last(x: Tensor) -> Tensor:
    """x in channels-last memory; by permutations, since torch.func.vmap knows no memory formats."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def within_reach(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """The kernel with zeros at the taps that no pixel of a zero-padded image of that size sees data through.

    A matrix, which has no taps, is returned as it is.
    """
    if weight.ndim == 2:
        return weight
    k = weight.shape[-1]
    distance = (torch.arange(k, device=weight.device) - k // 2).abs()
    return weight * (distance < size[0])[:, None] * (distance < size[1])


def _few(channels: int, limits: Mapping[str, int], k: int, like: Tensor) -> bool:
    return k > 1 and channels < limits.get(like.device.type, 0)


def _rows(x: Tensor) -> Tensor:
    """``(batch, C, H, W)`` as ``(batch·H·W, C)``; a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _pixels(x: Tensor) -> Tensor:
    """``(batch, C, H, W)`` as ``(batch, H·W, C)``; a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _patches(x: Tensor, k: int) -> Tensor:
    """x around every pixel, ``(batch, H·W, C·k·k)``."""
    _, channels, height, width = x.shape
    if height * width > _FEW_PIXELS.get(x.device.type, 0):
        return F.unfold(x, k, padding=k // 2).transpose(1, 2)
    padded = F.pad(x, (k // 2,) * 4).flatten(1)
    places = torch.from_numpy(_patch_places(channels, height, width, k))
    return padded.index_select(1, places).unflatten(1, (height * width, -1))


@functools.lru_cache(maxsize=64)
def _patch_places(channels: int, height: int, width: int, k: int) -> NDArray[np.int64]:
    """Where the entries of `_patches` stand in a flattened padded image.

    An array, since a tensor kept from one call to the next would carry over the mode (inference, tracing) of the first.
    """
    size = channels, height + k - 1, width + k - 1
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(math.prod(size)).reshape(size), (k, k), axis=(1, 2))
    return windows.transpose(1, 2, 0, 3, 4).flatten()


def _gather(x: Tensor, weight: Tensor) -> Tensor:
    """The kernel ``(out, in, k, k)`` times the patches of x ``(batch, in, H, W)``; channels-last result."""
    y = _patches(x, weight.shape[-1]) @ weight.flatten(1).t()
    return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def _scatter(x: Tensor, weight: Tensor) -> Tensor:
    """Every pixel of x ``(batch, in, H, W)`` times the kernel ``(out, in, k, k)``, added up where results overlap."""
    k = weight.shape[-1]
    taps = weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
    return F.fold(taps @ _pixels(x).transpose(1, 2), x.shape[2:], k, padding=k // 2)
