"""The induced norm ‖W‖_{p→q} of a linear operator, from below, by the generalised power method."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from contraflow.numerics.power_iteration import SingularTriple

#: p of ‖x‖_p: a number in [1, ∞], or a scalar tensor in (1, ∞) where its gradient is needed.
Order = float | Tensor


def order_number(p: Order) -> float:
    """The order without its gradient."""
    return float(p.detach()) if isinstance(p, Tensor) else p


def dual_order(p: Order) -> Order:
    """p* with 1/p + 1/p* = 1.

    >>> dual_order(1.0), dual_order(2.0), dual_order(math.inf)
    (inf, 2.0, 1.0)
    """
    if isinstance(p, Tensor):
        return p / (p - 1)
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def order_norm(x: Tensor, p: Order) -> Tensor:
    """‖x‖_p of every member of a stack ``(stack, *shape)``; differentiable in x and in a tensor p.

    >>> order_norm(torch.tensor([[3.0, -4.0]]), torch.tensor(2.0))
    tensor([5.])
    """
    flat = x.flatten(1)
    if not isinstance(p, Tensor) and p in (1, 2, math.inf):
        return torch.linalg.vector_norm(flat, p, dim=1)
    # On the scale of the largest entry, so that large powers neither overflow nor vanish.
    tiny = torch.finfo(x.dtype).tiny
    size = flat.detach().abs().amax(dim=1).clamp_min(tiny)
    return size * (flat / size[:, None]).abs().pow(p).sum(dim=1).clamp_min(tiny).pow(1 / p)


@torch.no_grad()
def duality_map(y: Tensor, p: Order) -> Tensor:
    """The u with ‖u‖_{p*} = 1 and ⟨u, y⟩ = ‖y‖_p, for every member of a stack: sign(y) (|y| / ‖y‖_p)^{p-1}.

    Signs for p = 1, the largest entry's signed unit vector for p = ∞.

    >>> duality_map(torch.tensor([[1.0, -2.0]]), math.inf)
    tensor([[ 0., -1.]])
    """
    flat = y.flatten(1)
    signs = torch.where(flat < 0, -1.0, 1.0).to(flat.dtype)
    if not isinstance(p, Tensor) and p == math.inf:
        largest = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, signs.gather(1, largest)).reshape(y.shape)
    size = order_norm(flat, p).clamp_min(torch.finfo(y.dtype).tiny)
    return (signs * (flat.abs() / size[:, None]).pow(p - 1)).reshape(y.shape)


@torch.no_grad()
def induced_power_iteration(
    operator: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    v: Tensor,
    p: Order,
    q: Order,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
) -> SingularTriple:
    r"""‖W‖_{p→q} = max ‖W v‖_q / ‖v‖_p from below, from several starts at once.

        u ← the dual vector of W v in ‖·‖_q,    v ← the dual vector of Wᵀu in ‖·‖_{p*},    σ = uᵀ W v,

    which maximises the bilinear form uᵀ W v over ‖u‖_{q*} = 1 and ‖v‖_p = 1 in turn, so σ never falls. It converges
    to a local maximum; only for p = q = 2, and for W without negative entries and p >= q, is that the norm from almost
    every start (Boyd, The power method for l^p norms, 1974). Hence the stack of starts: take its largest σ. For
    p = q = 2 it is `contraflow.numerics.power_iteration`. Higham, Estimating the matrix p-norm, 1992; Johnston, QETLAB,
    InducedMatrixNorm; Chen et al. 2019 (arXiv:1906.02735), Appendix D. docs/maths/induced-norms.md.

    Args:
        operator, adjoint: v ↦ W v and u ↦ Wᵀu, over a leading stack dimension.
        v: starts ``(stack, *in)``.
        p, q: norm orders of the domain and of the codomain.
        tolerance: relative change of σ below which all starts have converged.
        max_iterations: largest number of iterations; σ is a valid lower bound wherever it stops.

    Returns:
        u, v, σ of every start, with ‖u‖_{q*} = ‖v‖_p = 1; and the number of iterations.

    >>> weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> triple = induced_power_iteration(lambda v: v @ weight.T, lambda u: u @ weight, torch.eye(2), 1.0, 2.0)
    >>> round(triple.sigma.max().item(), 4)
    1.4142
    """
    dual = dual_order(p)
    previous = torch.full((v.shape[0],), math.nan, dtype=v.dtype, device=v.device)
    iterations = 0
    while iterations < max_iterations:
        iterations += 1
        u = duality_map(operator(v), q)
        gradient = adjoint(u)
        sigma = order_norm(gradient, dual)
        v = duality_map(gradient, dual)
        if bool(((sigma - previous).abs() <= tolerance * sigma).all()):
            break
        previous = sigma
    return SingularTriple(u, v, sigma, iterations)
