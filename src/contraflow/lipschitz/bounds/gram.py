r"""WᵀW (or WWᵀ, whichever is smaller) in float64: of matrices, and of zero-padded convolutions at one image size.

A convolution's Gram matrix couples rows of pixels up to k - 1 apart. Taken k - 1 rows at a time it is block
tridiagonal, so that it is never held, nor factorised, in full. Derivation: docs/maths/lipschitz-bounds.md.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from contraflow.numerics import BlockTridiagonal

#: Largest side of a block; 2048 rows take a second to factorise.
LARGEST_BLOCK = 2048


def dense_gram(weights: Tensor) -> BlockTridiagonal:
    """Gram matrices of weights ``(stack, out, in)``, the smaller ones."""
    matrices = weights.detach().double()
    small = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    return BlockTridiagonal([small @ small.mT], [], small.shape[-1])


def convolution_gram(kernels: Tensor, size: tuple[int, int]) -> BlockTridiagonal | None:
    """Gram matrices of zero-padded convolutions ``(stack, out, in, k, k)`` with odd k > 1 at (H, W).

    Returns:
        ``None`` where a block would have more than `LARGEST_BLOCK` rows.
    """
    kernel = kernels.detach().double()
    if size[1] > size[0]:
        kernel, size = kernel.mT, (size[1], size[0])
    if kernel.shape[1] < kernel.shape[2]:
        kernel = kernel.transpose(1, 2).flip(3, 4)  # the adjoint has the same norm and the smaller Gram matrix
    k, channels, (height, width) = kernel.shape[-1], kernel.shape[2], size
    if (k - 1) * width * channels > LARGEST_BLOCK:
        return None
    rows = _rows_of_pixels(kernel, width)
    bands = _bands(rows, height)
    groups = [range(start, min(start + k - 1, height)) for start in range(0, height, k - 1)]
    diagonal = [_assemble(bands, group, group) for group in groups]
    upper = [_assemble(bands, above, below) for above, below in itertools.pairwise(groups)]
    return BlockTridiagonal(diagonal, upper, k * k * kernel.shape[1])


def _rows_of_pixels(kernel: Tensor, width: int) -> Tensor:
    """R[a, b] = B_aᵀB_b with B_a the one-row convolution by row a of the kernel, ``(k, k, stack, W·in, W·in)``."""
    stack, _, inputs, k, _ = kernel.shape
    products = torch.einsum("soiax,sojby->abxysij", kernel, kernel)
    rows = kernel.new_zeros(k, k, width, width, stack, inputs, inputs)
    for x in range(k):
        for y in range(k):
            first, last = max(0, k // 2 - min(x, y)), min(width, width + k // 2 - max(x, y))
            outputs = torch.arange(first, max(first, last))
            rows[:, :, outputs + x - k // 2, outputs + y - k // 2] += products[:, :, x, y, None]
    return rows.permute(0, 1, 4, 2, 5, 3, 6).reshape(k, k, stack, width * inputs, width * inputs)


def _bands(rows: Tensor, height: int) -> list[list[Tensor]]:
    """Block (p, p + d) of the Gram matrix by rows of pixels, for d = 0 … k - 1; equal blocks are one tensor."""
    k = len(rows)
    half = k // 2
    sums: dict[tuple[int, int, int], Tensor] = {}
    bands: list[list[Tensor]] = []
    for p in range(height):
        bands.append([])
        for d in range(min(k, height - p)):
            # Row a of the kernel sees pixel row p from output row p - a + k//2, which must be in the image.
            first, last = max(0, p + half - height + 1), min(k - 1 - d, p + half)
            key = (first, last, d)
            if key not in sums:
                sums[key] = torch.stack([rows[a, a + d] for a in range(first, last + 1)]).sum(dim=0)
            bands[p].append(sums[key])
    return bands


def _assemble(bands: list[list[Tensor]], above: range, below: range) -> Tensor:
    """The block of some rows of pixels against others."""
    lines = []
    for p in above:
        line = []
        for q in below:
            near, d = min(p, q), abs(p - q)
            block = bands[near][d] if d < len(bands[near]) else torch.zeros_like(bands[near][0])
            line.append(block if p <= q else block.mT)
        lines.append(torch.cat(line, dim=-1))
    return torch.cat(lines, dim=-2)
