"""Fixed points x = T(x) of contractions, sample by sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (x of the unfinished rows, their row numbers) -> T(x) of those rows
RowMap = Callable[[Tensor, Tensor], Tensor]

#: Consecutive evaluations without a shorter step after which the solver stops iterating a sample.
PATIENCE = 10

#: λ of the newest difference in Anderson's least-squares problem; ten times more for each older one.
RIDGE = 1e-5

#: Evaluations by which Anderson's extrapolations may fall behind the guarantee of Picard's steps.
LOAN = 2


@dataclass(frozen=True)
class FixedPoint:
    """The result of a fixed-point solver.

    Attributes:
        value: ``(batch, *event)``, the x at which `residual` was measured.
        iterations: evaluations of T for each sample, ``(batch,)``.
        residual: ‖x - T(x)‖ of each sample, measured at `value`, ``(batch,)``.
        converged: whether the residual is within the tolerance, ``(batch,)``.
        order: p of the norm ‖·‖_p that the residual is measured in.
    """

    value: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor
    order: float = 2.0

    def error_bound(self, lipschitz_bound: float) -> Tensor:
        r"""‖x - x*‖_p <= ‖x - T(x)‖_p / (1 - L), p = `order`, where L < 1 bounds Lip(T) in ‖·‖_p; infinite where
        L >= 1 (Banach 1922).
        """
        if lipschitz_bound >= 1:
            return torch.full_like(self.residual, math.inf)
        return self.residual / (1 - lipschitz_bound)


@dataclass(frozen=True)
class FixedPointSolver(ABC):
    """Settings that all fixed-point solvers share.

    Args:
        tolerance: largest root-mean-square residual ‖x - T(x)‖₂ / √D that counts as converged (not its square). In
            another norm ‖·‖_p it is the p-th power mean, ‖x - T(x)‖_p / D^(1/p). ``None`` chooses by dtype: 1e-5 in
            float32, 1e-11 in float64.
        max_iterations: largest number of evaluations of T for a sample.
    """

    tolerance: float | None = None
    max_iterations: int = 1000

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The tolerance in force for tensors of `dtype`."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-11 if dtype == torch.float64 else 1e-5

    def solve(self, function: RowMap, start: Tensor, order: float = 2.0, contraction: float = 1.0) -> FixedPoint:
        """Iterate every sample to its own tolerance; finished samples leave the batch.

        It does not raise where a sample does not converge: check `FixedPoint.converged`. It stops iterating a sample
        whose step has not become shorter in `PATIENCE` consecutive evaluations: in exact arithmetic a contraction
        shortens it at least every second time, so the limit of rounding is reached, or T does not contract.

        Args:
            function: T.
            start: ``(batch, *event)``.
            order: p of the norm in which T contracts and steps are measured. Picard's steps are guaranteed to shrink in
                that norm only, and the safeguard relies on it.
            contraction: L with ‖T(x) - T(y)‖_p <= L ‖x - y‖_p where one is known; 1 otherwise.
        """
        batch = start.shape[0]
        limit = self.tolerance_for(start.dtype) * max(1, start[0].numel() if batch else 1) ** (1 / order)
        value, residual = start.clone(), start.new_full((batch,), math.inf)
        iterations = torch.zeros(batch, dtype=torch.long, device=start.device)
        rows = torch.arange(batch, device=start.device)
        search = self._search(start, min(contraction, 1.0))
        for evaluation in range(1, self.max_iterations + 1):
            if not len(rows):
                break
            image = function(search.x, rows)
            step = (image - search.x).flatten(1).norm(order, dim=1)
            search.judge(image, step)
            unfinished = (step > limit) & step.isfinite() & (search.failures < PATIENCE)
            if evaluation == self.max_iterations or not unfinished.all():
                value[rows], residual[rows], iterations[rows] = search.best, search.shortest, evaluation
                rows = rows[unfinished]
                search.keep(unfinished)
            search.move()
        return FixedPoint(value, iterations, residual, residual <= limit, order)

    @abstractmethod
    def _search(self, start: Tensor, contraction: float) -> _Search:
        """The state of the iteration."""


class _Search:
    """The current and the best point of every unfinished row; moves by Picard's steps."""

    _per_row: tuple[str, ...] = ("x", "image", "best", "best_image", "shortest", "failures")

    def __init__(self, start: Tensor) -> None:
        self.x = self.image = self.best = self.best_image = start
        self.shortest = start.new_full((len(start),), math.inf)
        self.failures = torch.zeros(len(start), dtype=torch.long, device=start.device)

    def judge(self, image: Tensor, step: Tensor) -> None:
        """Record T(x) and the length of its step."""
        shorter = step < self.shortest
        self.image = image
        self.failures = torch.where(shorter, 0, self.failures + 1)
        self.shortest = torch.where(shorter, step, self.shortest)
        chosen = _like_events(shorter, image)
        self.best = torch.where(chosen, self.x, self.best)
        self.best_image = torch.where(chosen, image, self.best_image)

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        for name in self._per_row:
            setattr(self, name, getattr(self, name)[rows])

    def move(self) -> None:
        """Go on to the next point."""
        self.x = self.image


def _like_events(mask: Tensor, events: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (events.ndim - 1))


@dataclass(frozen=True)
class Picard(FixedPointSolver):
    r"""Picard iteration x ← T(x); the residual falls by the factor Lip(T) an iteration.

    >>> solution = Picard(tolerance=1e-6).solve(lambda x, rows: x / 2 + 1, torch.zeros(3, 2))
    >>> bool(solution.converged.all()), round(solution.value[0, 0].item(), 3)
    (True, 2.0)
    """

    def _search(self, start: Tensor, contraction: float) -> _Search:
        return _Search(start)


@dataclass(frozen=True)
class Anderson(FixedPointSolver):
    r"""Anderson acceleration that never falls behind what Picard's steps guarantee.

    With f_k = T(x_k) - x_k and the last m differences ΔF, ΔG of f and T(x), columns scaled so that those of ΔF have
    length 1,

        γ = argmin ‖f_k - ΔF γ‖² + Σ_i λ_i γ_i²,    x_{k+1} = T(x_k) - ΔG γ.

    λ grows with the age of a difference, so that the newest differences decide where the columns are nearly dependent
    (as they must be once m exceeds the dimension). An extrapolation is tried only where the best step so far is already
    as short as Picard's steps guarantee for the *next* evaluation, and only after an evaluation that gave a shorter
    step; otherwise the iteration continues from T of the best point. So after k evaluations the best step is at most
    L^(k-1) times the first one, as for Picard, however good the extrapolations were
    (docs/maths/fixed-point-inverse.md).

    Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.

    Args:
        memory: number m of stored differences.

    >>> solution = Anderson(tolerance=1e-6).solve(lambda x, rows: x.cos() / 2, torch.zeros(3, 2))
    >>> bool(solution.converged.all()), round(solution.value[0, 0].item(), 4)
    (True, 0.4502)
    """

    memory: int = 5

    def _search(self, start: Tensor, contraction: float) -> _Search:
        return _AndersonSearch(start, self.memory, contraction)


class _AndersonSearch(_Search):
    _per_row = (*_Search._per_row, "guaranteed", "f", "g", "differences_f", "differences_g", "gram")

    def __init__(self, start: Tensor, memory: int, contraction: float) -> None:
        super().__init__(start)
        flat = start.flatten(1)
        self.memory = memory
        self.contraction = contraction
        #: The step that Picard's iteration guarantees at the next evaluation.
        self.guaranteed = torch.full_like(self.shortest, math.inf)
        self.count = 0
        self.f = self.g = flat
        self.differences_f = flat.new_zeros(len(flat), memory, flat.shape[1])
        self.differences_g = torch.zeros_like(self.differences_f)
        self.gram = flat.new_zeros(len(flat), memory, memory)

    def judge(self, image: Tensor, step: Tensor) -> None:
        super().judge(image, step)
        if not self.count:
            self.guaranteed = step
        elif self.count >= LOAN:
            self.guaranteed = self.contraction * self.guaranteed
        g = image.flatten(1)
        f = g - self.x.flatten(1)
        if self.count:
            self._remember(f - self.f, g - self.g)
        self.f, self.g = f, g
        self.count += 1

    def _remember(self, df: Tensor, dg: Tensor) -> None:
        scale = df.norm(dim=1, keepdim=True).clamp_min(torch.finfo(df.dtype).tiny)
        slot = (self.count - 1) % self.memory
        self.differences_f[:, slot] = df / scale
        self.differences_g[:, slot] = dg / scale
        products = (self.differences_f @ self.differences_f[:, slot, :, None])[:, :, 0]
        self.gram[:, slot] = products
        self.gram[:, :, slot] = products

    def move(self) -> None:
        if self.count < 2:
            self.x = self.image
            return
        affordable = (self.failures == 0) & (self.shortest <= self.guaranteed)
        proposal = (self.g - self._correction()).reshape(self.image.shape)
        self.x = torch.where(_like_events(affordable, proposal), proposal, self.best_image)

    def _correction(self) -> Tensor:
        """ΔG γ."""
        newest = (self.count - 2) % self.memory
        ages = [(newest - slot) % self.memory for slot in range(self.memory)]
        ridge = self.gram.new_tensor([RIDGE * 10**age for age in ages])
        right = self.differences_f @ self.f[:, :, None]
        gamma = torch.linalg.solve_ex(self.gram + ridge.diag(), right)[0]
        return (gamma.transpose(1, 2) @ self.differences_g)[:, 0]
