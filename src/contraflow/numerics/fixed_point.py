"""Fixed points x = T(x) of contractions, sample by sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (x of the rows still at work, their row numbers) -> T(x) of those rows
RowMap = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FixedPoint:
    """What a solver found.

    Attributes:
        value: ``(batch, *event)``, the x at which `residual` was measured.
        iterations: evaluations of T spent on each sample, ``(batch,)``.
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
    """Settings that the solvers share.

    Args:
        tolerance: largest root-mean-square step ‖x - T(x)‖₂ / √D that counts as arrived; the step itself, not its
            square. In another norm ‖·‖_p the p-th power mean, ‖x - T(x)‖_p / D^(1/p). ``None`` chooses by dtype: 1e-5
            in float32, 1e-11 in float64.
        max_iterations: most evaluations of T for a sample.
    """

    tolerance: float | None = None
    max_iterations: int = 1000

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The tolerance in force for tensors of `dtype`."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-11 if dtype == torch.float64 else 1e-5

    def solve(self, function: RowMap, start: Tensor, order: float = 2.0) -> FixedPoint:
        """Iterate every sample to its own tolerance; finished samples leave the batch.

        Does not raise where a sample does not arrive: look at `FixedPoint.converged`.

        Args:
            function: T.
            start: ``(batch, *event)``.
            order: p of the norm in which T contracts and steps are measured. A step of Picard's shrinks in that norm
                and in no other for certain, and the safeguards rely on it.
        """
        batch = start.shape[0]
        limit = self.tolerance_for(start.dtype) * max(1, start[0].numel() if batch else 1) ** (1 / order)
        value = start.clone()
        residual = torch.full((batch,), math.inf, dtype=start.dtype, device=start.device)
        iterations = torch.zeros(batch, dtype=torch.long, device=start.device)
        rows = torch.arange(batch, device=start.device)
        proposer = self._proposer(start)
        x = value
        for _ in range(self.max_iterations):
            if not len(rows):
                break
            image = function(x, rows)
            step = (image - x).flatten(1).norm(order, dim=1)
            iterations[rows] += 1
            better = step < residual[rows]
            value[rows[better]] = x[better]
            residual[rows[better]] = step[better]
            keep = (step > limit) & step.isfinite()
            if keep.all():
                x = proposer.propose(x, image, step)
            else:
                rows = rows[keep]
                proposer.keep(keep)
                x = proposer.propose(x[keep], image[keep], step[keep])
        return FixedPoint(value, iterations, residual, residual <= limit, order)

    @abstractmethod
    def _proposer(self, start: Tensor) -> _Proposer:
        """The rule that proposes the next iterate, with room for its memory."""


class _Proposer(ABC):
    @abstractmethod
    def propose(self, x: Tensor, image: Tensor, step: Tensor) -> Tensor:
        """Next x from x, T(x) and ‖T(x) - x‖ of the rows still at work."""

    def keep(self, mask: Tensor) -> None:  # noqa: B027 - memoryless rules have nothing to drop
        """Forget the rows that are finished."""


@dataclass(frozen=True)
class Picard(FixedPointSolver):
    r"""x ← T(x); the residual falls by Lip(T) an iteration.

    >>> found = Picard(tolerance=1e-6).solve(lambda x, rows: x / 2 + 1, torch.zeros(3, 2))
    >>> bool(found.converged.all()), round(found.value[0, 0].item(), 3)
    (True, 2.0)
    """

    def _proposer(self, start: Tensor) -> _Proposer:
        return _PicardProposer()


class _PicardProposer(_Proposer):
    def propose(self, x: Tensor, image: Tensor, step: Tensor) -> Tensor:
        return image


@dataclass(frozen=True)
class Anderson(FixedPointSolver):
    r"""Anderson acceleration, with a safeguard that falls back on Picard's step.

    With f_k = T(x_k) - x_k and the last m differences ΔF, ΔG of f and T(x),

        γ = argmin ‖f_k - ΔF γ‖²,    x_{k+1} = T(x_k) - ΔG γ.

    An iterate whose step is longer than the one before is given up for that sample: the memory is emptied and the
    iteration goes on from T of the best point so far, which contracts (docs/maths/fixed-point-inverse.md).

    Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.

    Args:
        memory: number m of differences kept.

    >>> found = Anderson(tolerance=1e-6).solve(lambda x, rows: x.cos() / 2, torch.zeros(3, 2))
    >>> bool(found.converged.all()), round(found.value[0, 0].item(), 4)
    (True, 0.4502)
    """

    memory: int = 5

    def _proposer(self, start: Tensor) -> _Proposer:
        return _AndersonProposer(self.memory, start)


class _AndersonProposer(_Proposer):
    def __init__(self, memory: int, start: Tensor) -> None:
        flat = start.flatten(1)
        room = (flat.shape[0], memory, flat.shape[1])
        self.memory = memory
        self.count = 0
        self.differences_f = flat.new_zeros(room)
        self.differences_g = flat.new_zeros(room)
        self.f = self.g = self.best_g = flat.new_zeros(flat.shape)
        self.best_step = torch.full_like(flat[:, 0], math.inf) if flat.shape[1] else flat.new_zeros(flat.shape[0])

    def keep(self, mask: Tensor) -> None:
        for name in ("differences_f", "differences_g", "f", "g", "best_g", "best_step"):
            setattr(self, name, getattr(self, name)[mask])

    def propose(self, x: Tensor, image: Tensor, step: Tensor) -> Tensor:
        g = image.flatten(1)
        f = g - x.flatten(1)
        worse = step >= self.best_step
        if self.count:
            slot = (self.count - 1) % self.memory
            self.differences_f[:, slot] = f - self.f
            self.differences_g[:, slot] = g - self.g
        self.count += 1
        self.best_g = torch.where(worse[:, None], self.best_g, g)
        self.best_step = torch.where(worse, self.best_step, step)
        self.f, self.g = f, g
        self.differences_f[worse] = 0
        self.differences_g[worse] = 0
        proposal = torch.where(worse[:, None], self.best_g, g - self._correction(f))
        return proposal.reshape(image.shape)

    def _correction(self, f: Tensor) -> Tensor:
        # Normal equations in float64: their condition number is the square of that of ΔF.
        df = self.differences_f.double()
        gram = df @ df.transpose(1, 2)
        size = gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        ridge = torch.eye(self.memory, dtype=gram.dtype, device=gram.device) * 1e-10
        right = (df @ f.double()[:, :, None]) / size[:, None, None]
        gamma = torch.linalg.solve(gram / size[:, None, None] + ridge, right)
        return (gamma.transpose(1, 2) @ self.differences_g.double())[:, 0].to(f.dtype)
