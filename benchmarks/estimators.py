"""Variance × cost of the log-determinant and of its gradient: the adaptive law against the paper's estimator.

    python -m benchmarks.estimators                      # linear g: writes docs/estimators-table.md
    python -m benchmarks.estimators --run runs/digits-0  # the blocks of a trained flow, to the screen

The paper's estimator: Gaussian probes, 2 exact terms + Geometric(0.5). Variances are of one sample, so stratification
plays no part. A step costs n + 7 products, an evaluation of the value alone n + 1; P probes cost 4 + P(n + 3).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from contraflow import TRAINING, AdaptiveRoulette, Gaussian, Rademacher, ResidualBlock
from contraflow.bijections import with_logdet
from contraflow.logdet.contraction import Vjp
from contraflow.recipes import load_run
from contraflow.recipes.build import load_data

DIMENSIONS = (2, 16, 64, 784)
RHOS = (0.3, 0.5, 0.7, 0.9, 0.95)
RUNS = 3
RUNS_LARGE = 1  # at D = 784, where one matrix is as good as three
LEARNING_STEPS = 300
BATCH = 64
HORIZON = 500
_TABLE = Path(__file__).parents[1] / "docs" / "estimators-table.md"


@dataclass(frozen=True)
class Law:
    """c_k = 1/P(term k is computed), k = 0, 1, …, HORIZON, the mean number of terms n, and the tail's fall q."""

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
    """E r_k² of the tails r_k = Σ_{j >= k} (±) term j of the series, k = 0, 1, …, and the square of the mean."""

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
        """Of the gradient along a direction dJ, or of the value where there is none."""
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
        """Terms until ρ^k is 1e-12: under q = ρ that is the size of what is left out."""
        radius = max(self.values.abs().max().item(), 1e-3)
        return min(HORIZON, 3 + math.ceil(math.log(1e-12) / math.log(radius)))


@dataclass(frozen=True)
class Linear:
    """g(x) = Jx as a contraction, without the detour of `torch.func`."""

    matrix: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """J."""
        return (self.matrix,)

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """Jx."""
        return x @ tensors[0].T

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """Jx and u ↦ Jᵀu."""
        return x @ tensors[0].T, lambda u: u @ tensors[0]

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Jx and Jt."""
        return x @ tensors[0].T, t @ tensors[0].T

    def lipschitz_bound(self) -> float:
        """‖J‖₂."""
        return torch.linalg.matrix_norm(self.matrix, 2).item()


def learned_law(matrix: Tensor, probes: int, seed: int) -> Law:
    """What a block with this Jacobian has learned after some hundred steps, by the library's own code."""
    block = ResidualBlock(Linear(matrix), AdaptiveRoulette(probes=probes))
    x, generator = matrix.new_zeros(BATCH, len(matrix)), Generator().manual_seed(seed)
    for _ in range(LEARNING_STEPS):
        block.forward_and_logdet(x, generator=generator)
    assert block.decay is not None
    return Law.adaptive(block.decay.law)


def compare(kind: str, dimensions: int, rho: float, seed: int) -> dict[str, float]:
    """Variance × cost of the adaptive law over that of the paper's estimator, for one matrix and one direction."""
    generator = Generator().manual_seed(seed)
    matrix = jacobian(kind, dimensions, rho, generator)
    direction = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    spectrum, paper = Spectrum(matrix), Law.paper()
    laws = {probes: learned_law(matrix, probes, seed) for probes in (1, 2)}
    found = {"radius": spectrum.values.abs().max().item(), "q": laws[1].q, "terms": laws[1].terms}
    for what, along in (("gradient", direction), ("value", None)):
        reference = spectrum.moments(along, rademacher=False).variance(paper)
        for probes, law in laws.items():
            variance = spectrum.moments(along, rademacher=True, probes=probes).variance(law)
            found[f"{what} {probes}"] = variance * law.cost(probes) / (reference * paper.cost())
            found[f"{what} {probes} finite"] = float(math.isfinite(variance))
            if what == "value" and probes == 1:
                found["value alone"] = variance * (law.terms + 1) / (reference * (paper.terms + 1))
    return found


#: Columns of ratios: key in what `compare` finds → heading.
_RATIOS = {
    "gradient 1": "gradient",
    "value 1": "value",
    "value alone": "value, no gradient",
    "gradient 2": "gradient, 2 probes",
    "value 2": "value, 2 probes",
}


def row(kind: str, dimensions: int, rho: float) -> tuple[str, list[dict[str, float]]]:
    """One line of the table, over all runs."""
    count = RUNS if dimensions < 500 else RUNS_LARGE
    runs = [compare(kind, dimensions, rho, seed) for seed in range(count)]
    cells = [kind, str(dimensions), f"{rho:g}", _spread([one["radius"] for one in runs])]
    cells += [_spread([one[key] for one in runs]) for key in ("q", "terms")]
    cells += [_spread([one[key] for one in runs]) for key in _RATIOS]
    return f"| {' | '.join(cells)} |", runs


def _spread(values: Sequence[float]) -> str:
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{mean:.2f} ({low:.2f}–{high:.2f})"


def write_table() -> None:
    """All rows, and a summary against the three goals."""
    heads = ["J", "D", "ρ", "spectral radius", "q", "terms n", *_RATIOS.values()]
    lines, found = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)], []
    for kind in ("random", "symmetric"):
        for dimensions in DIMENSIONS:
            for rho in RHOS:
                line, runs = row(kind, dimensions, rho)
                print(line, flush=True)
                lines.append(line)
                found += [one | {"rho": rho} for one in runs]
    _TABLE.write_text("\n".join([_INTRODUCTION, *summary(found), "", *lines, ""]))


def summary(found: list[dict[str, float]]) -> list[str]:
    """Worst cases, over runs."""
    finite = sum(one[f"{what} {p} finite"] for one in found for what in ("gradient", "value") for p in (1, 2))
    lines = [f"Variances that are finite: {finite:.0f} of {4 * len(found)}. Largest ratio of any single run:", ""]
    for key, name in _RATIOS.items():
        low = max(one[key] for one in found if one["rho"] <= 0.5)
        lines.append(f"- {name}: {max(one[key] for one in found):.2f}; where ρ <= 0.5: {low:.2f}.")
    return lines


_INTRODUCTION = f"""# Adaptive law against the paper's estimator

Written by `python -m benchmarks.estimators`. Ratio of variance × cost, `AdaptiveRoulette()` over the paper's estimator
(one Gaussian probe, 2 exact terms + Geometric(0.5)); below 1 the adaptive law is cheaper at equal variance, 0.00 where
the paper's variance is infinite (spectral radius above 0.71) or nearly so. g is linear, ‖J‖₂ = ρ, J with Gaussian
entries, or symmetric with Gaussian entries. The gradient is that along one random direction dJ. Variances are computed
in closed form from the spectrum, for the law that a block has learned after {LEARNING_STEPS} steps of batch {BATCH}; a
step costs n + 7 products (4 + P(n + 3) with P probes), a value alone n + 1. Mean over {RUNS} runs (matrix, direction,
draws; at D = 784 {RUNS_LARGE}), with the range where it shows. Part of the gain at small D is the Rademacher probe's.
With two probes part of the gain is not the law's: they share what a step costs beside the series, and would under the
paper's law too (9 instead of 11 at equal variance, a ratio of 0.82).
"""


def trained_blocks(run: Path, rows: int = 32, probes: int = 64) -> list[str]:
    """The same ratios at the blocks of a trained flow, from draws at test rows, after 200 steps of learning.

    The gradient is that along a direction dJ with independent standard normal entries, in the mean over them.
    """
    trained = load_run(run, dtype="float64")
    data = load_data(trained.recipe.data, trained.recipe.seed)
    flow = with_logdet(trained.flow, AdaptiveRoulette()).train()
    generator = Generator().manual_seed(0)
    for step in range(200):
        chosen = torch.randint(len(data.train), (BATCH,), generator=Generator().manual_seed(step))
        flow.log_prob(data.train[chosen].to(torch.float64), generator=generator)
    lines = ["| block | ρ̂ | q | terms n | gradient | value |", "|---|---|---|---|---|---|"]
    inputs = block_inputs(flow, data.test[:rows].to(torch.float64))
    for name, (block, x) in inputs.items():
        assert block.decay is not None
        law, paper = Law.adaptive(block.decay.law), Law.paper()
        ours = drawn_moments(block, x, probes, generator, rademacher=True)
        theirs = drawn_moments(block, x, probes, generator, rademacher=False)
        ratios = [
            one.variance(law) * law.cost() / (other.variance(paper) * paper.cost())
            for one, other in zip(ours, theirs, strict=True)
        ]
        cells = [name, *(f"{one:.2f}" for one in (block.decay.rate.sqrt().item(), law.q, law.terms, *ratios))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def block_inputs(flow: nn.Module, x: Tensor) -> dict[str, tuple[ResidualBlock, Tensor]]:
    """Name of a residual block → itself and what reaches it."""
    found: dict[str, tuple[ResidualBlock, Tensor]] = {}

    def watch(name: str) -> Callable[[ResidualBlock, tuple[Tensor, ...]], None]:
        def hook(block: ResidualBlock, given: tuple[Tensor, ...]) -> None:
            found[name] = (block, given[0].detach())

        return hook

    blocks = {name: one for name, one in flow.named_modules() if isinstance(one, ResidualBlock)}
    handles = [block.register_forward_pre_hook(watch(name)) for name, block in blocks.items()]
    with torch.no_grad():
        flow(x)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def drawn_moments(
    block: ResidualBlock, x: Tensor, probes: int, generator: Generator, rademacher: bool, terms: int = 60
) -> tuple[Moments, Moments]:
    """Of gradient and value: mean over rows, from `probes` probes a row and the first `terms` terms."""
    v = (Rademacher() if rademacher else Gaussian()).sample((probes, *x.shape), x, generator)
    _, vjp = block.g.linearize(block.g.tensors(), x)
    powers = [v]
    for _ in range(terms):
        powers.append(vjp(powers[-1]))
    rate = (powers[-1].square().sum() / powers[-2].square().sum().clamp_min(1e-300)).sqrt().item()
    size = v.flatten(2).square().sum(2)
    adjoint, value = torch.zeros_like(v), torch.zeros_like(size)
    gradients, values = [], []
    for k in range(terms, -1, -1):
        adjoint += (-1) ** k * powers[k]
        gradients.append((adjoint.flatten(2).square().sum(2) * size).mean())
        if k:
            value += (-1) ** (k + 1) / k * (v * powers[k]).flatten(2).sum(2)
        values.append(value.square().mean())
    pairs = [one.roll(1, 0) for one in (adjoint, v, value)]  # independent probes at the same row
    inner = [(one * other).flatten(2).sum(2) for one, other in zip((adjoint, v), pairs[:2], strict=True)]
    means = (inner[0] * inner[1]).mean().item(), (value * pairs[2]).mean().item()
    return Moments(torch.stack(gradients[::-1]), means[0], rate), Moments(torch.stack(values[::-1]), means[1], rate)


def main() -> None:
    """The table, or the blocks of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a trained run, instead of the table")
    run: Path | None = parser.parse_args().run
    torch.set_num_threads(1)
    if run is None:
        write_table()
    else:
        print("\n".join(trained_blocks(run)))


if __name__ == "__main__":
    main()
