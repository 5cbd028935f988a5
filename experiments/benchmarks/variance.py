"""Variances of Russian roulette estimators in closed form, from the spectrum of J: docs/maths/adaptive-law.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow import TRAINING

#: Number of terms of the series.
HORIZON = 500


@dataclass(frozen=True)
class Law:
    """c_k = 1/P(term k is computed), k = 0, 1, …, HORIZON, the mean number of terms n, and the ratio q of the tail."""

    weights: Tensor
    terms: float
    q: float

    @classmethod
    def paper(cls) -> Law:
        """2 exact terms + Geometric(0.5)."""
        weights = [1.0] + [TRAINING.coefficient(k) for k in range(1, HORIZON + 1)]
        return cls(torch.tensor(weights, dtype=torch.float64), TRAINING.exact_terms + TRAINING.law.mean, 0.5)

    @classmethod
    def adaptive(cls, law: Tensor) -> Law:
        """P_k = min(1, q^(k-m)), P_1 = 1."""
        q, m = law.double().tolist()
        k = torch.arange(HORIZON + 1, dtype=torch.float64)
        computed = (q ** (k - m)).clamp_max(1.0)
        computed[:2] = 1.0
        return cls(1 / computed, computed[1:].sum().item(), q)

    def cost(self, probes: int = 1) -> float:
        """Products of a training step."""
        return 4 + probes * (self.terms + 3)


@dataclass(frozen=True)
class Moments:
    """E r_k² of the remainders r_k = Σ_{j >= k} (±) term j of the series, k = 0, 1, …, and the square of the mean."""

    tails: Tensor
    mean_squared: float
    radius: float

    def variance(self, law: Law) -> float:
        """Var = E r_0² - mean² + Σ_k (c_k - c_{k-1}) E r_k² (docs/maths/adaptive-law.md)."""
        if self.radius**2 >= law.q:
            return math.inf
        rises = law.weights[1 : len(self.tails)] - law.weights[: len(self.tails) - 1]
        return (self.tails[0] - self.mean_squared + (rises * self.tails[1:]).sum()).item()


def jacobian(kind: str, dimensions: int, rho: float, generator: Generator) -> Tensor:
    """Gaussian entries, or symmetric with Gaussian entries, scaled to ‖J‖₂ = ρ."""
    matrix = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    if kind == "symmetric":
        matrix = (matrix + matrix.T) / 2
    return matrix * (rho / torch.linalg.matrix_norm(matrix, 2))


class Spectrum:
    """J = U diag(λ) W with W = U⁻¹, so that every tail is U diag(f(λ)) W and its moments cost O(D²)."""

    def __init__(self, matrix: Tensor) -> None:
        self.values, self.u = torch.linalg.eig(matrix)
        self.w = torch.linalg.inv(self.u)

    def second_moments(self, functions: Tensor, right: Tensor, rademacher: bool, probes: int) -> tuple[Tensor, float]:
        """E of the squared mean over probes of vᵀU diag(f) W right v for each f ``(k, D)``; and (its mean)² at f_0."""
        c = self.w @ right.to(self.w)
        e = c @ self.u
        gram = (self.u.mH @ self.u) * (c @ c.mH).conj()
        norm = torch.einsum("ki,ij,kj->k", functions.conj(), gram, functions).real
        square = torch.einsum("ki,ij,kj->k", functions, e * e.T, functions).real
        diagonal = (functions @ (self.u * c.T).T).real
        trace = diagonal.sum(1)
        spread = norm + square  # 2‖S‖_F² = ‖A‖_F² + tr A²
        if rademacher:
            spread = spread - 2 * diagonal.square().sum(1)
        return trace.square() + spread.clamp_min(0) / probes, trace[0].item() ** 2

    def moments(self, direction: Tensor | None, rademacher: bool, probes: int = 1) -> Moments:
        """Moments of the gradient along a direction dJ, or of the value without a direction."""
        identity = torch.eye(len(self.values), dtype=torch.float64)
        functions = self._value_tails() if direction is None else self._gradient_tails()
        right = identity if direction is None else direction
        tails, mean_squared = self.second_moments(functions, right, rademacher, probes)
        return Moments(tails, mean_squared, self.values.abs().max().item())

    def _gradient_tails(self) -> Tensor:
        """(-λ)^k / (1 + λ)."""
        k = torch.arange(self._horizon(), dtype=torch.float64)[:, None]
        return (-self.values) ** k / (1 + self.values)

    def _value_tails(self) -> Tensor:
        """Σ_{j >= k} (-1)^(j+1) λ^j / j for k = 1, 2, …, summed from the small end; row 0 repeats row 1."""
        last = self._horizon()
        total = torch.zeros_like(self.values)
        rows = []
        for j in range(last + 200, 0, -1):
            total = total - (-self.values) ** j / j
            rows.append(total)
        return torch.stack([rows[-1], *rows[::-1][: last - 1]])

    def _horizon(self) -> int:
        """Number of terms until ρ^k is 1e-12."""
        radius = max(self.values.abs().max().item(), 1e-3)
        return min(HORIZON, 3 + math.ceil(math.log(1e-12) / math.log(radius)))
