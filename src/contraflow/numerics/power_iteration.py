"""Power iteration: the largest singular value of a linear operator, from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class SingularTriple(NamedTuple):
    """σ ≈ uᵀ W v with unit u and v, one per operator of the stack."""

    u: Tensor
    v: Tensor
    sigma: Tensor
    iterations: int


def _unit(x: Tensor) -> Tensor:
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / norm.reshape(-1, *[1] * (x.ndim - 1))


@torch.no_grad()
def power_iteration(
    operator: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    v: Tensor,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> SingularTriple:
    r"""u ← W v / ‖W v‖, v ← Wᵀu / ‖Wᵀu‖ until σ = uᵀ W v changes by less than `tolerance`, relatively.

    The change is compared on the singular value itself, so the rule does not depend on the dimension; at least two
    iterations run, since the first one after a weight update says nothing about convergence. σ is an estimate from
    *below*: see `contraflow.lipschitz.bounds.spectral` for the bound from above.

    Args:
        operator, adjoint: v ↦ W v and u ↦ Wᵀu, for a stack of operators at once.
        v: start ``(stack, *in)``; the v of the previous training step is a warm start.
        tolerance: relative change of σ below which all operators of the stack have converged.
        max_iterations: largest number of iterations; reaching it is no error, since σ stays a valid lower bound.

    >>> weight = torch.diag(torch.tensor([3.0, 1.0]))[None]
    >>> start = torch.ones(1, 2)
    >>> result = power_iteration(lambda v: v @ weight[0].T, lambda u: u @ weight[0], start)
    >>> round(result.sigma.item(), 4)
    3.0
    """
    previous = torch.full((v.shape[0],), float("nan"), dtype=v.dtype, device=v.device)
    iterations = 0
    while iterations < max_iterations:
        iterations += 1
        u = _unit(operator(v))
        v = adjoint(u)
        sigma = v.flatten(1).norm(dim=1)
        v = _unit(v)
        if bool(((sigma - previous).abs() <= tolerance * sigma).all()):
            break
        previous = sigma
    # A zero operator leaves zero vectors; sigma is then 0 and soft normalisation divides by one.
    return SingularTriple(u, v, sigma, iterations)
