"""Induced norms ‖W‖_{p→q} from above, in float64: exact in the closed cases, by a balanced spectral norm elsewhere.

Derivations and how loose each bound is: docs/maths/induced-norms.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from contraflow.lipschitz.bounds.balance import FLOOR, Densities, balance, densities_near, refine
from contraflow.lipschitz.bounds.channels import column_norms, row_norms
from contraflow.lipschitz.bounds.spectral import certified_conv_norm, certified_dense_norm
from contraflow.lipschitz.convolution import convolve, mirrored, within_reach
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.numerics import induced_power_iteration

#: Relative allowance for the rounding of sums and powers.
_ROUNDING = 1e-12

#: Floors that a certificate tries; the first is that of training.
_FLOORS = (FLOOR, 0.005, 0.3, 1.0)

#: Smaller side of the largest matrix whose densities are refined: a second's work.
_LARGEST_REFINED = 256

#: Starts of the search for the maximiser, and the effort of the second trial of every floor, in a certificate.
_STARTS, _EFFORT = 20, 8


def certified_induced_norm(
    weight: Tensor, p: float, q: float, size: tuple[int, int] = (1, 1), v: Tensor | None = None
) -> float:
    r"""An upper bound on ‖W‖_{p→q} = max ‖W x‖_q / ‖x‖_p of a matrix, or of a zero-padded convolution at its size.

    Exact for 1→q (largest column q-norm) and p→∞ (largest row p*-norm); singular values for 2→2 (for a k×k convolution
    see `certified_conv_norm`). Every other pair is bounded by the spectral norm of W after a change of density:
    `contraflow.lipschitz.bounds.balance`. A 1×1 convolution at N pixels has N^{max(0, 1/q - 1/p)} times the norm of its
    matrix, exactly.

    Args:
        weight: ``(out, in)``, or a kernel ``(out, in, k, k)`` with odd k.
        p, q: norm orders in [1, ∞] of the domain and of the codomain.
        size: (H, W) of a convolution.
        v: a vector near the maximiser, ``(1, in)`` or ``(1, in, H, W)``, which decides how tight the bound is; found
            by the power method when not given.

    M. Riesz 1926, Thorin 1948; Chen et al. 2019 (arXiv:1906.02735), Appendix D.

    >>> weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    >>> [round(certified_induced_norm(weight, p, q), 6) for p, q in ((1, 1), (math.inf, math.inf), (1, math.inf))]
    [6.0, 7.0, 4.0]
    """
    matrix = weight.detach().double()
    if matrix.ndim == 4 and matrix.shape[-1] == 1:
        factor, matrix, size = pixel_factor(size, p, q), matrix[:, :, 0, 0], (1, 1)
        v = None if v is None else v.flatten(1)
    else:
        factor, matrix = 1.0, within_reach(matrix, size)
    if not bool(matrix.any()):
        return 0.0
    closed = closed_norm(matrix, p, q, size)
    bound = closed if closed is not None else _balanced_norm(matrix, p, q, size, v)
    return factor * bound * (1 + _ROUNDING)


def pixel_factor(size: tuple[int, int], p: float, q: float) -> float:
    """‖I_N ⊗ W‖_{p→q} / ‖W‖_{p→q} = N^{max(0, 1/q - 1/p)} for N = HW pixels."""
    return (size[0] * size[1]) ** max(0.0, 1 / q - 1 / p)


def closed_norm(weight: Tensor, p: float, q: float, size: tuple[int, int]) -> float | None:
    """‖W‖_{1→q}, the largest q-norm of a column, and ‖W‖_{p→∞}, the largest p*-norm of a row; else ``None``."""
    if p == 1:
        return column_norms(weight, 1 / q, size).max().item()
    if q == math.inf:
        return row_norms(weight, 1 - 1 / p, size).max().item()
    return None


def induced_method(p: float, q: float) -> str:
    """The method by which ‖W‖_{p→q} is bounded, in words."""
    if p == 1 or q == math.inf:
        return "largest column, exact" if p == 1 else "largest row, exact"
    if p >= 2 >= q:
        return "spectral norm after a change of density"
    return "Riesz and Thorin after a change of density"


def _balanced_norm(weight: Tensor, p: float, q: float, size: tuple[int, int], v: Tensor | None) -> float:
    if weight.ndim == 2:
        operator = LinearOperator(weight, lambda weight, x: x @ weight.T, lambda weight: weight.T)
    else:
        operator = LinearOperator(weight, lambda weight, x: convolve(x, weight), mirrored, size)
    if v is None:
        generator = torch.Generator().manual_seed(0)
        shape = weight.shape[1:] if weight.ndim == 2 else (weight.shape[1], *size)
        starts = torch.randn(_STARTS, *shape, generator=generator, dtype=torch.float64).to(weight.device)
        triple = induced_power_iteration(operator, operator.adjoint(), starts, p, q, tolerance=1e-4)
        v = triple.v[triple.sigma.argmax()][None]
    trials = [(floor, 1) for floor in _FLOORS] + [(floor, _EFFORT) for floor in (FLOOR, 0.3) if p >= 2 >= q]
    tried = [densities_near(operator, v.double(), (p, q), floor, effort) for floor, effort in trials]

    def bound(densities: Densities) -> float:
        balanced = balance(weight, p, q, densities, size)
        return _spectral(balanced.weight, size) ** float(balanced.exponent)

    bounds = [bound(densities) for densities in tried]
    best = min(bounds)
    if weight.ndim == 2 and min(weight.shape) <= _LARGEST_REFINED:
        best = min(best, bound(refine(weight, p, q, tried[bounds.index(best)])))
    return best


def _spectral(weight: Tensor, size: tuple[int, int]) -> float:
    return certified_dense_norm(weight) if weight.ndim == 2 else certified_conv_norm(weight, size=size)
