"""The largest eigenvalue of a Gram matrix, from above: a Cholesky factorisation that succeeds is a proof."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Factor between the gaps that are tried one after the other.
_GROWTH = 4.0
_TRIALS = 16


class BlockTridiagonal(NamedTuple):
    """A stack of symmetric block tridiagonal matrices; one block stands for a dense matrix.

    Attributes:
        diagonal: blocks ``(stack, b_i, b_i)``.
        upper: blocks ``(stack, b_i, b_{i+1})`` right of the diagonal; one fewer.
        terms: largest number of products summed in one entry, for the bound on rounding.
    """

    diagonal: list[Tensor]
    upper: list[Tensor]
    terms: int

    @property
    def order(self) -> int:
        """n, the number of rows."""
        return sum(block.shape[-1] for block in self.diagonal)

    def rounding(self) -> float:
        r"""Relative allowance for a square root of an eigenvalue, in float64.

        A Cholesky factorisation that ends belongs to a matrix within γ_{n+1} times the trace (Rump, Verification of
        positive definiteness, 2006); the entries themselves carry `terms` roundings each. Derivation:
        docs/maths/lipschitz-bounds.md.
        """
        return 0.5 * self.order * (self.order + self.terms + 8) * torch.finfo(torch.float64).eps


def is_below(matrices: BlockTridiagonal, shift: Tensor) -> Tensor:
    """Whether λ_max < shift, for each of the stack: whether shift·I - G has a Cholesky factor; bool ``(stack,)``."""
    succeeded = torch.ones_like(shift, dtype=torch.bool)
    carried: Tensor | None = None
    for index, block in enumerate(matrices.diagonal):
        remainder = -block
        remainder.diagonal(dim1=-2, dim2=-1).add_(shift[:, None])
        if carried is not None:
            remainder = remainder.baddbmm_(carried.mT, carried, alpha=-1)
        factor, info = torch.linalg.cholesky_ex(remainder)
        succeeded &= info == 0
        if index == len(matrices.upper) or not bool(succeeded.any()):
            break
        carried = torch.linalg.solve_triangular(factor, matrices.upper[index], upper=False)
    return succeeded


def norm_from_above(matrices: BlockTridiagonal, estimate: Tensor, gap: float, target: Tensor | None = None) -> Tensor:
    r"""Bounds u >= √λ_max of every matrix of the stack, in float64.

    u = estimate · (1 + gap · 4^j) for the first j = 0, 1, … whose factorisation succeeds; where j > 0, the interval
    between the last failure and the success is then halved until it is as short as `gap`. With a `target`,
    u = target is tried first for estimates below it, and kept if it succeeds.

    Args:
        matrices: Gram matrices G = WᵀW in float64.
        estimate: estimates of √λ_max, from below, ``(stack,)``.
        gap: relative distance of the first trial.
        target: a value to try first, ``(stack,)``.

    Returns:
        ``(stack,)``; infinity where no trial succeeds, which happens only for entries that are not finite.

    >>> gram = BlockTridiagonal([torch.diag(torch.tensor([4.0, 1.0]).double())[None]], [], 1)
    >>> 2 <= norm_from_above(gram, torch.tensor([1.7]).double(), 1e-3).item() < 2.003
    True
    """
    allowance = 1 + matrices.rounding()
    below = estimate.clamp_min(torch.finfo(torch.float32).tiny)
    above = torch.full_like(estimate, torch.inf)
    trials = [below * (1 + gap * _GROWTH**j) for j in range(_TRIALS)]
    if target is not None:
        trials = [torch.where(estimate <= target, target / allowance, trials[0]), *trials]
    for trial in trials:
        below, above = _try(matrices, trial, above.isinf(), below, above)
    for _ in range(_TRIALS):
        wide = above.isfinite() & (above > below * (1 + 2 * gap))
        if target is not None:
            wide &= above > target
        below, above = _try(matrices, (below * above).sqrt(), wide, below, above)
    return above * allowance


def _try(
    matrices: BlockTridiagonal, trial: Tensor, active: Tensor, below: Tensor, above: Tensor
) -> tuple[Tensor, Tensor]:
    """Intervals [below, above] for √λ_max after one trial of the `active` matrices."""
    rows = active.nonzero()[:, 0]
    if not len(rows):
        return below, above
    succeeded = torch.zeros_like(active)
    succeeded[rows] = is_below(matrices if len(rows) == len(active) else _select(matrices, rows), trial[rows].square())
    return torch.where(active & ~succeeded, trial, below), torch.where(succeeded, trial, above)


def _select(matrices: BlockTridiagonal, rows: Tensor) -> BlockTridiagonal:
    diagonal, upper = ([block[rows] for block in blocks] for blocks in (matrices.diagonal, matrices.upper))
    return BlockTridiagonal(diagonal, upper, matrices.terms)
