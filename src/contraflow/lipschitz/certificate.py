"""Spectral norms from above, in float64. Power iteration bounds from below; these numbers are what is promised."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Relative allowance for the rounding of the eigenvalue routines themselves.
_ROUNDING = 1e-12


def certified_dense_norm(weight: Tensor) -> float:
    """σ₁(W) of ``(out, in)`` by singular values in float64.

    >>> round(certified_dense_norm(torch.diag(torch.tensor([0.5, 2.0]))), 9)
    2.0
    """
    matrix = weight.detach().double()
    return torch.linalg.matrix_norm(matrix, 2).item() * (1 + _ROUNDING)


def certified_conv_norm(weight: Tensor, grid: int = 64) -> float:
    r"""A bound on the norm of the zero-padded convolution with kernel ``(out, in, k, k)``, for every spatial size.

    With the symbol F(ω) = Σ_{a,b} K[a,b] e^{-i(aω₁ + bω₂)},

        ‖conv‖₂ <= max over an N×N grid of ‖F(ω)‖₂ / cos(π(k-1)/N):

    a finite zero-padded convolution is a compression of the infinite one, whose norm is max_ω ‖F(ω)‖₂, and
    u*F(ω)*F(ω)u is a trigonometric polynomial of degree k-1 in each variable, bounded by its samples up to a factor
    1/cos(π(k-1)/N) a variable on the square (Ehlich and Zeller, Schwankung von Polynomen zwischen Gitterpunkten, 1964).

    Args:
        weight: ``(out, in, k, k)``.
        grid: N > 2(k-1); 64 is 0.5 % loose for k = 3.

    >>> kernel = torch.zeros(1, 1, 3, 3)
    >>> kernel[0, 0, 1, 1] = 0.5
    >>> 0.5 <= certified_conv_norm(kernel) < 0.503
    True
    """
    kernel = weight.detach().double()
    k = kernel.shape[-1]
    if k == 1:
        return certified_dense_norm(kernel[:, :, 0, 0])
    if kernel.shape[0] < kernel.shape[1]:
        kernel = kernel.transpose(0, 1).flip(2, 3)  # the adjoint has the same norm and the smaller Gram matrix
    largest = 0.0
    for gram in _gram_symbol(kernel, grid).split(256):
        largest = max(largest, torch.linalg.eigvalsh(gram)[:, -1].max().item())
    return math.sqrt(max(largest, 0.0)) / math.cos(math.pi * (k - 1) / grid) * (1 + _ROUNDING)


def _gram_symbol(kernel: Tensor, grid: int) -> Tensor:
    """F(ω)*F(ω) on half of the grid (a real kernel gives conjugate values on the other half), ``(points, in, in)``."""
    k = kernel.shape[-1]
    # F*F is the symbol of the kernel's autocorrelation, whose size does not depend on the number of outputs.
    padded = torch.nn.functional.pad(kernel, (0, k - 1, 0, k - 1))
    spectrum = torch.fft.fft2(padded).permute(2, 3, 0, 1)
    correlation = torch.fft.ifft2((spectrum.mH @ spectrum).permute(2, 3, 0, 1)).real
    shifts = torch.fft.fftfreq(2 * k - 1, 1 / (2 * k - 1), dtype=torch.float64, device=kernel.device)
    omega = 2 * math.pi * torch.arange(grid, dtype=torch.float64, device=kernel.device) / grid
    phase = torch.exp(-1j * omega[:, None] * shifts)
    half = grid // 2 + 1
    symbol = torch.einsum("xa,yb,ijab->xyij", phase, phase[:half], correlation.to(torch.complex128))
    return symbol.reshape(grid * half, kernel.shape[1], kernel.shape[1])
