"""Variance × cost of the log-determinant and its gradient: the adaptive law and the paper's estimator.

    python -m experiments.benchmarks.estimators
    python -m experiments.benchmarks.estimators --run RUN/digits-0 RUN/power-0

Both write docs/generated/estimators-table.md. The paper's estimator: Gaussian probes, 2 exact
terms + Geometric(0.5). Variances are of one sample, so stratification plays no part. A step costs n + 7 products, an
evaluation of the value alone n + 1; P probes cost 4 + P(n + 3).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from contraflow import AdaptiveRoulette, ResidualBlock
from contraflow.bijections import with_logdet
from contraflow.logdet import Contraction, Vjp
from contraflow.logdet.probes import Probe, Rademacher
from contraflow.runs import load_run
from contraflow.runs.build import load_data
from experiments.benchmarks.pages import GENERATED
from experiments.benchmarks.variance import Law, Spectrum, jacobian

DIMENSIONS = (2, 16, 64, 784)
RHOS = (0.3, 0.5, 0.7, 0.9, 0.95)
PROBES = (1, 2)
RUNS = 3
RUNS_LARGE = 1  # at D = 784, where results hardly vary between matrices
LEARNING_STEPS = 200  # the law is updated at each of them
BATCH = 32


@dataclass(frozen=True)
class Linear(Contraction):
    """g(x) = Jx as a contraction, with derivatives in closed form."""

    matrix: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """J."""
        return (self.matrix,)

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """Jx."""
        return x @ tensors[0].T

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """Jx and u ↦ Jᵀu."""
        return x @ tensors[0].T, Vjp(lambda u: u @ tensors[0])

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Jx and Jt."""
        return x @ tensors[0].T, t @ tensors[0].T

    def lipschitz_bound(self) -> float:
        """‖J‖₂."""
        return torch.linalg.matrix_norm(self.matrix, 2).item()


class Diagonal(Linear):
    """g(x) = diag(λ)x: a symmetric J in the coordinates of its eigenvectors."""

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """λx."""
        return x * tensors[0]

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """λx and u ↦ λu."""
        return x * tensors[0], Vjp(lambda u: u * tensors[0])

    def lipschitz_bound(self) -> float:
        """max |λ|."""
        return self.matrix.abs().max().item()


@dataclass(frozen=True)
class Rotated(Probe):
    """Rademacher probes in the coordinates of the columns of Q."""

    q: Tensor

    def sample(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
        """Qᵀv."""
        return Rademacher().sample(shape, like, generator) @ self.q


def learned_law(kind: str, matrix: Tensor, probes: int, seed: int) -> Law:
    """The law that a block with this Jacobian learns in `LEARNING_STEPS` passes."""
    if kind == "symmetric":
        values, q = torch.linalg.eigh(matrix)
        block = ResidualBlock(Diagonal(values), AdaptiveRoulette(Rotated(q), probes))
    else:
        block = ResidualBlock(Linear(matrix), AdaptiveRoulette(Rademacher(), probes))
    x, generator = matrix.new_zeros(BATCH, len(matrix)), Generator().manual_seed(seed)
    assert block.decay is not None
    for _ in range(LEARNING_STEPS):
        block.decay.passes.zero_()
        block.forward_and_logdet(x, generator=generator)
    return Law.adaptive(block.decay.law)


def ratios(spectra: Sequence[Spectrum], directions: Sequence[Tensor], laws: dict[int, Law]) -> dict[str, float]:
    """Variance × cost of adaptive laws (number of probes → law) over the paper's, averaged over Jacobians."""
    paper, values = Law.paper(), {"q": laws[1].q, "terms": laws[1].terms}
    for what in ("gradient", "value"):
        along = directions if what == "gradient" else [None] * len(spectra)
        pairs = list(zip(spectra, along, strict=True))
        reference = sum(one.moments(to, rademacher=False).variance(paper) for one, to in pairs)
        for probes, law in laws.items():
            variance = sum(one.moments(to, rademacher=True, probes=probes).variance(law) for one, to in pairs)
            values[f"{what} {probes}"] = variance * law.cost(probes) / (reference * paper.cost())
            values[f"{what} {probes} finite"] = float(math.isfinite(variance))
    return values


def linear_rows(kind: str, dimensions: int, rho: float) -> list[dict[str, Any]]:
    """One line of the table: several matrices, each with one direction dJ."""
    rows = []
    for seed in range(RUNS if dimensions < 500 else RUNS_LARGE):
        generator = Generator().manual_seed(seed)
        matrix = jacobian(kind, dimensions, rho, generator)
        direction = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
        spectrum = Spectrum(matrix)
        laws = {probes: learned_law(kind, matrix, probes, seed) for probes in PROBES}
        radius = spectrum.values.abs().max().item()
        rows.append({"J": kind, "D": dimensions, "ρ": rho, "radius": radius, **ratios([spectrum], [direction], laws)})
    return rows


def trained_rows(run: Path, rows: int = 4) -> Iterator[dict[str, Any]]:
    """The blocks of a trained flow: dense Jacobians at test rows, laws learned from training rows.

    The gradient is taken along one direction dJ for each row, with independent standard normal entries.
    """
    trained = load_run(run)
    data = load_data(trained.recipe.data, trained.recipe.seed)
    generator, decays = Generator().manual_seed(0), {}
    for probes in PROBES:
        flow = with_logdet(trained.flow, AdaptiveRoulette(Rademacher(), probes)).train()
        decays[probes] = {
            name: block.decay
            for name, block in flow.named_modules()
            if isinstance(block, ResidualBlock) and block.decay is not None
        }
        for _ in range(LEARNING_STEPS):
            for decay in decays[probes].values():
                decay.passes.zero_()
            chosen = torch.randint(len(data.train), (BATCH,), generator=generator)
            flow.log_prob(data.train[chosen], generator=generator)
    inputs = block_inputs(load_run(run, dtype="float64").flow, data.test[:rows].double())
    for name, (block, x) in inputs.items():
        matrices = dense_jacobians(block, x)
        spectra = [Spectrum(one) for one in matrices]
        directions = list(torch.randn(matrices.shape, generator=generator, dtype=torch.float64))
        laws = {probes: Law.adaptive(decay[name].law) for probes, decay in decays.items()}
        radius = max(one.values.abs().max().item() for one in spectra)
        shape = "×".join(str(size) for size in x.shape[1:])
        yield {"run": run.name, "block": name, "shape": shape, "radius": radius, **ratios(spectra, directions, laws)}


@torch.no_grad()
def dense_jacobians(block: ResidualBlock, x: Tensor) -> Tensor:
    """J_g at each row of x, ``(batch, D, D)``."""
    size = x[0].numel()
    basis = torch.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)
    return block.g.linearize(block.g.tensors(), x)[1](basis).reshape(size, len(x), size).transpose(0, 1)


def block_inputs(flow: nn.Module, x: Tensor) -> dict[str, tuple[ResidualBlock, Tensor]]:
    """Name of a residual block → the block and its input."""
    inputs: dict[str, tuple[ResidualBlock, Tensor]] = {}

    def watch(name: str) -> Callable[[ResidualBlock, tuple[Tensor, ...]], None]:
        def hook(block: ResidualBlock, given: tuple[Tensor, ...]) -> None:
            inputs[name] = (block, given[0].detach())

        return hook

    blocks = {name: one for name, one in flow.named_modules() if isinstance(one, ResidualBlock)}
    handles = [block.register_forward_pre_hook(watch(name)) for name, block in blocks.items()]
    with torch.no_grad():
        flow(x)
    for handle in handles:
        handle.remove()
    return inputs


#: Columns of ratios: key → heading.
_RATIOS = {
    f"{what} {probes}": what if probes == 1 else f"{what}, {probes} probes"
    for probes in PROBES
    for what in ("gradient", "value")
}


def spread(runs: list[dict[str, Any]], key: str) -> str:
    """Mean over runs, with the range if it is not a single number."""
    values = [run[key] for run in runs]
    mean, low, high = (f"{value:.2f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low}–{high})"


def linear_table(rows: list[dict[str, Any]], keys: dict[str, str]) -> list[str]:
    """One line for each kind, dimension and ρ."""
    lines = [f"| J | D | ρ | {' | '.join(keys.values())} |", "|" + "---|" * (3 + len(keys))]
    groups: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for one in rows:
        groups.setdefault((one["J"], one["D"], one["ρ"]), []).append(one)
    for (kind, dimensions, rho), runs in groups.items():
        cells = [kind, str(dimensions), f"{rho:g}", *(spread(runs, key) for key in keys)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def trained_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each block."""
    keys = {"radius": "spectral radius", "q": "q", "terms": "terms n", **_RATIOS}
    lines = [f"| run | block | {' | '.join(keys.values())} |", "|" + "---|" * (2 + len(keys))]
    for number, one in enumerate(rows, 1):
        cells = [one["run"], f"{number}: {one['shape']}", *(f"{one[key]:.2f}" for key in keys)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The largest ratios over all runs."""
    finite = sum(one[f"{key} finite"] for one in rows for key in _RATIOS)
    lines = [
        f"Finite variances: {finite:.0f} of {len(_RATIOS) * len(rows)}. Largest ratio of a single run:",
        "",
    ]
    for key, name in _RATIOS.items():
        low = [one[key] for one in rows if one.get("ρ", one["radius"]) <= 0.5]
        lines.append(
            f"- {name}: {max(one[key] for one in rows):.2f}; where ρ <= 0.5: {max(low, default=math.nan):.2f}."
        )
    return lines


_INTRODUCTION = f"""# The adaptive truncation law compared with the paper's estimator

Written by `python -m experiments.benchmarks.estimators`.

An estimator of the log-determinant is good where its variance times its cost is small. The tables show that product for
`AdaptiveRoulette(Rademacher(), probes)`, divided by that of the paper's estimator (one Gaussian probe, 2 exact terms,
Geometric(0.5)). Below 1 the adaptive law is cheaper at equal variance; 0.00 means that the paper's variance is infinite
(spectral radius above 0.71) or nearly so.

- *Variances* are those of one sample, in closed form from the spectrum of J, for the law that a block has learned from
  {LEARNING_STEPS} passes of batch {BATCH}. The gradient is taken along one random direction dJ.
- *Costs* are counted in products: a step costs 4 + P(n + 3) products with P probes, 11 for the paper's estimator.
- *Two probes* gain in part by sharing what a step costs besides the series. They would do so under the paper's law too
  (9 products instead of 11 at equal variance, a ratio of 0.82).
- *`Exact()`* costs 4 + 4D products and factorisations of D × D matrices and has no variance at all: 12 products at
  D = 2, 260 at D = 64.
"""

_LINEAR = f"""## Linear g

Here g(x) = Jx with ‖J‖₂ = ρ, and J has Gaussian entries or is symmetric with Gaussian entries. A cell is the mean over
{RUNS} runs (matrix, direction, draws; at D = 784 {RUNS_LARGE}), with the range in brackets where it shows. Part of
the gain at small D is due to the Rademacher probe.
"""

_TRAINED = """## Blocks of trained flows

With `--run` the dense Jacobians of every block are computed at 4 test rows, and the variances summed over these; the
laws are learned on training rows.
"""


def write(rows: list[dict[str, Any]]) -> None:
    """Write the page."""
    linear = [one for one in rows if "J" in one]
    trained = sorted((one for one in rows if "run" in one), key=lambda one: one["run"])
    keys = {"radius": "spectral radius", "q": "q", "terms": "terms n", **_RATIOS}
    lines = [_INTRODUCTION, _LINEAR, *summary(linear), "", *linear_table(linear, keys), ""]
    if trained:
        names = sorted({one["run"] for one in trained})
        tables = [trained_table([one for one in trained if one["run"] == name]) for name in names]
        lines += [
            _TRAINED,
            *summary(trained),
            "",
            *tables[0],
            *(line for table in tables[1:] for line in table[2:]),
            "",
        ]
    (GENERATED / "estimators-table.md").write_text("\n".join(lines))


def main() -> None:
    """Measure missing rows, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of trained runs")
    parser.add_argument("--rows", type=Path, default=Path("runs/estimators.jsonl"), help="file of measured rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path: Path = arguments.rows
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for rows in measurements(arguments.run, measured):
        with path.open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
        measured += rows
    write(measured)


def measurements(runs: Sequence[Path], measured: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Measure missing rows: of trained runs if any are given, otherwise of linear g."""
    there = {(one.get("J"), one.get("D"), one.get("ρ"), one.get("run")) for one in measured}
    for run in runs:
        if (None, None, None, run.name) not in there:
            yield list(trained_rows(run))
    wanted = [(kind, size, rho) for kind in ("random", "symmetric") for size in DIMENSIONS for rho in RHOS]
    for kind, size, rho in [] if runs else wanted:
        if (kind, size, rho, None) not in there:
            yield linear_rows(kind, size, rho)


if __name__ == "__main__":
    main()
