"""Spectral norms from above, in float64. Power iteration bounds from below; a proof needs these.

Derivations: docs/maths/lipschitz-bounds.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from contraflow.lipschitz.bounds.gram import LARGEST_BLOCK, convolution_gram
from contraflow.lipschitz.convolution import convolve, convolve_adjoint
from contraflow.numerics import norm_from_above, power_iteration

#: Relative allowance for the rounding of the eigenvalue routines themselves.
_ROUNDING = 1e-12

#: Largest side of a Gram matrix whose eigenvalues are computed in full: a second's work.
_DENSE = 1024

#: Relative distance from the estimate at which a bound is tried first.
_GAP = 1e-4


def certified_dense_norm(weight: Tensor) -> float:
    """σ₁(W) of ``(out, in)`` by singular values in float64.

    >>> round(certified_dense_norm(torch.diag(torch.tensor([0.5, 2.0]))), 9)
    2.0
    """
    matrix = weight.detach().double()
    return torch.linalg.matrix_norm(matrix, 2).item() * (1 + _ROUNDING)


def certified_conv_norm(
    weight: Tensor,
    grid: int = 64,
    size: tuple[int, int] | None = None,
    *,
    start: Tensor | None = None,
    target: float | None = None,
) -> float:
    r"""A bound on the norm of the zero-padded convolution with kernel ``(out, in, k, k)``, for every spatial size.

    With the symbol F(ω) = Σ_{a,b} K[a,b] e^{-i(aω₁ + bω₂)},

        ‖conv‖₂ <= max over an N×N grid of ‖F(ω)‖₂ / cos(π(k-1)/N):

    a finite zero-padded convolution is a compression of the infinite one, whose norm is max_ω ‖F(ω)‖₂, and
    u*F(ω)*F(ω)u is a trigonometric polynomial of degree k-1 in each variable, bounded by its samples up to a factor
    1/cos(π(k-1)/N) a variable on the square (Ehlich and Zeller, Schwankung von Polynomen zwischen Gitterpunkten, 1964).

    On small images the zeros around them lower the norm by up to a tenth, which this bound ignores. With a `size`
    the norm at that size is bounded instead: by the eigenvalues of the operator where it is small, otherwise by a
    power iteration's estimate raised in steps, from 1e-4, until u²I - WᵀW has a Cholesky factor, which proves that u
    is a bound. Only where a block of that factorisation would be too large (`LARGEST_BLOCK`) the symbol is used.

    Args:
        weight: ``(out, in, k, k)``.
        grid: N, raised to 16(k-1) where it is smaller; 64 is 0.5 % loose for k = 3.
        size: (H, W), the one spatial size that the bound has to hold for.
        start: start of the power iteration, ``(1, in, H, W)``, for speed; random when not given.
        target: a value that is tried as a bound as well, where it matters whether the norm is below it.

    >>> kernel = torch.zeros(1, 1, 3, 3)
    >>> kernel[0, 0, 1, 1] = 0.5
    >>> 0.5 <= certified_conv_norm(kernel) < 0.503
    True
    """
    kernel = weight.detach().double()
    k = kernel.shape[-1]
    if k == 1:
        return certified_dense_norm(kernel[:, :, 0, 0])
    if size is not None:
        bound = _at_size(kernel, size, start, target)
        if bound is not None:
            return bound
    return _by_symbol(kernel, max(grid, 16 * (k - 1)))


def spectral_method(weight: Tensor, size: tuple[int, int]) -> str:
    """The method by which `certified_conv_norm` bounds this kernel at this size, in words."""
    outputs, inputs, k, _ = weight.shape
    if k == 1:
        return "singular values"
    if min(outputs, inputs) * size[0] * size[1] <= _DENSE:
        return "eigenvalues at its size"
    fits = (k - 1) * min(size) * min(outputs, inputs) <= LARGEST_BLOCK
    return "Cholesky factor at its size" if fits else "symbol, for every size"


def _at_size(kernel: Tensor, size: tuple[int, int], start: Tensor | None, target: float | None) -> float | None:
    """The bound at one size; ``None`` where it takes too large a factorisation."""
    if min(kernel.shape[:2]) * size[0] * size[1] <= _DENSE:
        return math.sqrt(torch.linalg.eigvalsh(_gram_operator(kernel, size))[-1].clamp_min(0).item()) * (1 + _ROUNDING)
    gram = convolution_gram(kernel[None], size)
    if gram is None:
        return None
    if start is None:
        seeded = torch.Generator().manual_seed(0)
        start = torch.randn(1, kernel.shape[1], *size, generator=seeded, dtype=kernel.dtype).to(kernel.device)
    estimate = power_iteration(
        lambda v: convolve(v, kernel), lambda u: convolve_adjoint(u, kernel), start.double(), tolerance=1e-6
    ).sigma
    wanted = None if target is None else torch.full_like(estimate, target)
    bound = norm_from_above(gram, estimate, _GAP)
    if wanted is not None and bool(bound > wanted):
        bound = norm_from_above(gram, estimate, _GAP, wanted)
    return bound.item()


def _by_symbol(kernel: Tensor, grid: int) -> float:
    """The bound for every size."""
    k = kernel.shape[-1]
    if kernel.shape[0] < kernel.shape[1]:
        kernel = kernel.transpose(0, 1).flip(2, 3)  # the adjoint has the same norm and the smaller Gram matrix
    largest = 0.0
    for gram in _gram_symbol(kernel, grid).split(256):
        largest = max(largest, torch.linalg.eigvalsh(gram)[:, -1].max().item())
    return math.sqrt(max(largest, 0.0)) / math.cos(math.pi * (k - 1) / grid) * (1 + _ROUNDING)


def _gram_operator(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """WᵀW of the convolution as a matrix W at one size, a hundred columns at a time."""
    if kernel.shape[0] < kernel.shape[1]:
        kernel = kernel.transpose(0, 1).flip(2, 3)  # the adjoint
    inputs, padding = kernel.shape[1], kernel.shape[-1] // 2
    basis = torch.eye(inputs * size[0] * size[1], dtype=kernel.dtype, device=kernel.device)
    images = (F.conv2d(e.unflatten(1, (inputs, *size)), kernel, padding=padding) for e in basis.split(100))
    return torch.cat([F.conv_transpose2d(image, kernel, padding=padding).flatten(1) for image in images])


def _gram_symbol(kernel: Tensor, grid: int) -> Tensor:
    """F(ω)*F(ω) on half of the grid (a real kernel gives conjugate values on the other half), ``(points, in, in)``."""
    k = kernel.shape[-1]
    # F*F is the symbol of the kernel's autocorrelation, whose size does not depend on the number of outputs.
    padded = F.pad(kernel, (0, k - 1, 0, k - 1))
    spectrum = torch.fft.fft2(padded).permute(2, 3, 0, 1)
    correlation = torch.fft.ifft2((spectrum.mH @ spectrum).permute(2, 3, 0, 1)).real
    shifts = torch.fft.fftfreq(2 * k - 1, 1 / (2 * k - 1), dtype=torch.float64, device=kernel.device)
    omega = 2 * math.pi * torch.arange(grid, dtype=torch.float64, device=kernel.device) / grid
    phase = torch.exp(-1j * omega[:, None] * shifts)
    half = grid // 2 + 1
    symbol = torch.einsum("xa,yb,ijab->xyij", phase, phase[:half], correlation.to(torch.complex128))
    return symbol.reshape(grid * half, kernel.shape[1], kernel.shape[1])
