"""Induced norms ‖W‖_{p→q} from above, in float64: exact where a closed form exists, interpolated and scaled elsewhere.

Derivations and how loose each bound is: docs/maths/induced-norms.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from contraflow.lipschitz.certificate import certified_conv_norm
from contraflow.lipschitz.convolution import convolve, convolve_adjoint, within_reach
from contraflow.numerics import power_iteration

#: Relative allowance for the rounding of sums and powers.
_ROUNDING = 1e-12

#: Chords between the closed cases 1→q and p→∞ that are tried.
_CHORDS = 9

#: Steps of the search for a diagonal scaling; every one of them gives a valid bound.
_SCALING_STEPS = 40


def certified_induced_norm(weight: Tensor, p: float, q: float, size: tuple[int, int] = (1, 1)) -> float:
    r"""An upper bound on ‖W‖_{p→q} = max ‖W x‖_q / ‖x‖_p of a matrix, or of a zero-padded convolution at its size.

    Exact for 1→q (largest column q-norm), p→∞ (largest row p*-norm) and 2→2 (singular values; for a k×k convolution
    see `certified_conv_norm`). In between, by Riesz and Thorin, log‖W‖ is convex in (1/p, 1/q), which bounds every
    p <= q by those closed cases. For p > q, with positive diagonal D and E, p' <= p and q' >= q, p' <= q',

        ‖W‖_{p→q} <= ‖e‖_t ‖E⁻¹ W D⁻¹‖_{p'→q'} ‖d‖_s,    1/s = 1/p' - 1/p,  1/t = 1/q - 1/q',

    by Hölder; D = E = I is norm equivalence, and d, e are improved from there. A 1×1 convolution at N pixels has
    N^{max(0, 1/q - 1/p)} times the norm of its matrix, exactly.

    Args:
        weight: ``(out, in)``, or a kernel ``(out, in, k, k)`` with odd k.
        p, q: norm orders in [1, ∞] of the domain and of the codomain.
        size: (H, W) of a convolution.

    M. Riesz 1926, Thorin 1948; Chen et al. 2019 (arXiv:1906.02735), Appendix D.

    >>> weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    >>> [round(certified_induced_norm(weight, p, q), 6) for p, q in ((1, 1), (math.inf, math.inf), (1, math.inf))]
    [6.0, 7.0, 4.0]
    """
    kernel = weight.detach().double()
    if kernel.ndim == 2:
        kernel, size = kernel[:, :, None, None], (1, 1)
    kernel = within_reach(kernel, size)
    if not bool(kernel.any()):
        return 0.0
    if kernel.shape[-1] > 1:
        return _bound(kernel, p, q, size) * (1 + _ROUNDING)
    return pixel_factor(size, p, q) * _bound(kernel, p, q, (1, 1)) * (1 + _ROUNDING)


def pixel_factor(size: tuple[int, int], p: float, q: float) -> float:
    """‖I_N ⊗ W‖_{p→q} / ‖W‖_{p→q} = N^{max(0, 1/q - 1/p)} for N = HW pixels."""
    return (size[0] * size[1]) ** max(0.0, 1 / q - 1 / p)


def _bound(kernel: Tensor, p: float, q: float, size: tuple[int, int]) -> float:
    if p <= q:
        return _interpolated(kernel, 1 / p, 1 / q, size)
    inner = {(min(p, 2.0), max(q, 2.0)), (q, q), (p, p)}
    return min(_scaled(kernel, (p, q), pair, size) for pair in inner)


def _interpolated(kernel: Tensor, a: float, b: float, size: tuple[int, int]) -> float:
    """The smallest Riesz–Thorin bound at (a, b) = (1/p, 1/q), a >= b, over segments between closed cases."""
    if a == 1:
        return _largest_column(kernel, b, size)
    if b == 0:
        return _largest_row(kernel, a, size)
    spectral = certified_conv_norm(kernel, size=size)
    if a == b == 0.5:
        return spectral
    # From (1/2, 1/2) through (a, b) to the edge that the ray meets first.
    length = min(0.5 / (a - 0.5) if a > 0.5 else math.inf, 0.5 / (0.5 - b) if b < 0.5 else math.inf)
    edge_a, edge_b = 0.5 + length * (a - 0.5), 0.5 + length * (b - 0.5)
    meets_columns = a > 0.5 and length == 0.5 / (a - 0.5)
    edge = _largest_column(kernel, edge_b, size) if meets_columns else _largest_row(kernel, edge_a, size)
    found = spectral ** (1 - 1 / length) * edge ** (1 / length)
    # From (1, column_b) through (a, b) to (row_a, 0).
    for column_b in torch.linspace(b / a, 1, _CHORDS, dtype=torch.float64).tolist():
        share = b / column_b
        row_a = (a - share) / (1 - share) if share < 1 else 0.0
        chord = _largest_column(kernel, column_b, size) ** share
        found = min(found, chord * _largest_row(kernel, min(max(row_a, 0.0), 1.0), size) ** (1 - share))
    return found


def _largest_column(kernel: Tensor, b: float, size: tuple[int, int]) -> float:
    """‖W‖_{1→q} with b = 1/q: the largest q-norm of a column of the operator at its size."""
    largest = kernel.abs().max().item()
    b = max(b, 0.0)
    if b < 1e-3:  # a q above 1000 is bounded by norm equivalence from the largest entry
        entries = kernel.shape[0] * kernel.shape[-1] ** 2
        return largest * entries**b
    ones = kernel.new_ones(1, kernel.shape[0], *size)
    return largest * convolve_adjoint(ones, (kernel.abs() / largest) ** (1 / b)).max().item() ** b


def _largest_row(kernel: Tensor, a: float, size: tuple[int, int]) -> float:
    """‖W‖_{p→∞} with a = 1/p: the largest p*-norm of a row, 1/p* = 1 - a; the largest column of the adjoint."""
    return _largest_column(kernel.transpose(0, 1).flip(2, 3), 1 - a, size)


def _scaled(kernel: Tensor, outer: tuple[float, float], inner: tuple[float, float], size: tuple[int, int]) -> float:
    """‖e‖_t ‖E⁻¹WD⁻¹‖_{p'→q'} ‖d‖_s with one entry of d and e a channel, repeated at every pixel."""
    inverse_s, inverse_t = 1 / inner[0] - 1 / outer[0], 1 / outer[1] - 1 / inner[1]
    pixels = size[0] * size[1]
    # d^s and e^t as weights of sum one, so that ‖d‖_s = pixels^{1/s}; all equal is norm equivalence.
    d = kernel.new_full((kernel.shape[1],), 1 / kernel.shape[1])
    e = kernel.new_full((kernel.shape[0],), 1 / kernel.shape[0])

    def scale(d: Tensor, e: Tensor) -> Tensor:
        return kernel / (d**inverse_s)[:, None, None] / (e**inverse_t)[:, None, None, None]

    best, best_norm = (d, e), math.inf
    for step in range(_SCALING_STEPS):
        norm, left, right = _top_pair(scale(d, e), size)
        if norm < best_norm:
            best, best_norm = (d, e), norm
        rate = 1 / (step + 2)
        # At the optimum the squared singular vectors are d^s and e^t themselves.
        d, e = torch.lerp(d, right, rate), torch.lerp(e, left, rate)
    candidates = (best, (torch.full_like(d, 1 / len(d)), torch.full_like(e, 1 / len(e))))
    inside = min(_interpolated(scale(*pair), 1 / inner[0], 1 / inner[1], size) for pair in candidates)
    return inside * pixels ** (inverse_s + inverse_t)


def _top_pair(kernel: Tensor, size: tuple[int, int]) -> tuple[float, Tensor, Tensor]:
    """σ₁ and the squared singular vectors summed over pixels, per output and per input channel."""
    if kernel.shape[-1] == 1:
        u, sigma, vh = torch.linalg.svd(kernel[:, :, 0, 0], full_matrices=False)
        return sigma[0].item(), u[:, 0] ** 2, vh[0] ** 2
    start = kernel.new_ones(1, kernel.shape[1], *size)
    found = power_iteration(lambda v: convolve(v, kernel), lambda u: convolve_adjoint(u, kernel), start)
    return found.sigma.item(), (found.u[0] ** 2).sum(dim=(1, 2)), (found.v[0] ** 2).sum(dim=(1, 2))
