"""Spectral and learned norms on the checkerboard, and tightness of the bounds on ‖W‖_{p→q}: docs/generated/norms.md.

    python -m experiments.benchmarks.norms --runs runs

Finished runs are used again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from contraflow import Flow
from contraflow.lipschitz import LipschitzLayer, LipschitzLinear, certified_induced_norm, norm_orders
from contraflow.numerics import induced_power_iteration
from contraflow.runs import load_run
from experiments.benchmarks.pages import GENERATED, PICTURES
from experiments.benchmarks.results import timing
from experiments.benchmarks.timing import hardware

KINDS = ("spectral", "learned", "learned_shared")
SEEDS = (0, 1, 2)
BLOCKS, STEPS = 4, 600
PAIRS = ((2.0, 2.0), (2.4, 1.6), (2.4, 2.2), (2.0, 2.4), (1.6, 2.4), (2.4, 2.4), (1.6, 1.6), (math.inf, 1.0))
STARTS = 200


def main() -> None:
    """Train missing runs, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--remark", default="", help="a sentence about how the runs were made")
    arguments = parser.parse_args()
    folders = {(kind, seed): arguments.runs / f"{kind}-{seed}" for kind in KINDS for seed in SEEDS}
    for (kind, seed), folder in folders.items():
        if not (folder / "evaluation.json").is_file():
            subprocess.run([sys.executable, "-m", "contraflow", *command(kind, seed, folder)], check=True)
    flows = {key: load_run(folder).flow for key, folder in folders.items()}
    first = {kind: flows[kind, SEEDS[0]] for kind in KINDS}
    parts = [
        "# Norms: spectral and learned orders, and tightness of the bounds",
        f"Written by `python -m experiments.benchmarks.norms`. Machine: {hardware()}. {arguments.remark}",
        "## Checkerboard",
        f"`contraflow {' '.join(command('KIND', 'SEED', Path('RUN')))}`: {BLOCKS} blocks of three hidden layers of "
        f"64, {STEPS} steps, certified at each step, exact log-determinants. The table has the score of each seed, "
        f"and the mean ± standard error over {len(SEEDS)} seeds. For each seed all norms have the same initial "
        "weights and the same data.",
        scores(folders, flows),
        differences(folders),
        "## The learned orders of all blocks",
        "p₀ → p₁ → … of each block, all 2 at the start of training (Figure 18 of the paper). `contraflow certify RUN "
        f"--orders FILE` draws them. Seed {SEEDS[0]}.",
        *(orders(kind, first[kind]) for kind in KINDS[1:]),
        "## Tightness of the bounds on ‖W‖_{p→q}",
        f"Ratio of the certified bound to the best of {STARTS} starts of the power method: mean and maximum over "
        "matrices. Gaussian: three matrices of each shape. Trained: the normalised weights of the runs with seed "
        f"{SEEDS[0]}.",
        looseness(first),
    ]
    (GENERATED / "norms.md").write_text("\n\n".join(parts) + "\n")


def command(kind: str, seed: int | str, folder: Path) -> list[str]:
    """Arguments of the training command."""
    changes = (f"architecture.norms.kind={kind}", f"architecture.options.blocks={BLOCKS}", f"training.steps={STEPS}")
    rest = ("training.validate_every=200", "--seed", str(seed), "--out", str(folder))
    return ["train", "checkerboard_norms", *changes, *rest]


def scores(folders: dict[tuple[str, int], Path], flows: dict[tuple[str, int], Flow]) -> str:
    """Held-out scores, certificates and times for each kind of norm."""
    rows = [
        "| norms | test nats | mean | largest certified L | its 1/(1 - L) | layers over c | seconds a step, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        certificates = [flows[kind, seed].certify() for seed in SEEDS]
        blocks = [block for one in certificates for block in one.blocks]
        worst = max(blocks, key=lambda block: block.bound)
        over = sum(not layer.within_target for block in blocks for layer in block.layers)
        values = [score(folders[kind, seed]) for seed in SEEDS]
        seconds = statistics.median(timing(folders[kind, seed])[1] for seed in SEEDS)
        rows.append(
            f"| {kind} | {', '.join(f'{one:.3f}' for one in values)} | {mean(values)} | {worst.bound:.4f} | "
            f"{worst.inverse_error:.2f} | {over} | {seconds:.2f} |"
        )
    return "\n".join(rows)


def differences(folders: dict[tuple[str, int], Path]) -> str:
    """Scores of learned norms minus that of the spectral norm, paired by seed."""
    lines = []
    for kind in KINDS[1:]:
        gains = [score(folders[kind, seed]) - score(folders["spectral", seed]) for seed in SEEDS]
        lines.append(
            f"{kind} minus spectral: {mean(gains, '+.3f')} nats ({', '.join(f'{gain:+.3f}' for gain in gains)})"
        )
    return "; ".join(lines) + "."


def score(folder: Path) -> float:
    """Held-out nats of a run."""
    report: dict[str, float] = json.loads((folder / "evaluation.json").read_text())
    return report["value"]


def mean(values: list[float], form: str = ".3f") -> str:
    """The mean with its standard error."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def orders(kind: str, flow: Flow) -> str:
    """The orders as text, and their picture."""
    from contraflow.evaluation import norm_orders_picture

    table = norm_orders(flow)
    picture = PICTURES / f"norm-orders-{kind}.png"
    norm_orders_picture(table, picture)
    return f"### {kind}\n\n```text\n{table}\n```\n\n![{kind}](../pictures/{picture.name})"


def looseness(flows: dict[str, Flow]) -> str:
    """The table of ratios of bounds to searched norms."""
    torch.manual_seed(0)
    sets = {f"Gaussian, {rows}×{columns}": gaussian(rows, columns) for rows, columns in ((32, 2), (32, 32), (128, 128))}
    sets |= {f"trained, {kind}": trained(flow) for kind, flow in flows.items()}
    lines = ["| p → q | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for p, q in PAIRS:
        cells = []
        for matrices in sets.values():
            ratios = [certified_induced_norm(one, p, q) / searched(one, p, q) for one in matrices]
            cells.append(f"{sum(ratios) / len(ratios):.3f}, {max(ratios):.3f}")
        name = "∞" if p == math.inf else f"{p:g}"
        lines.append(f"| {name} → {q:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gaussian(rows: int, columns: int) -> list[Tensor]:
    """Three random matrices."""
    return [torch.randn(rows, columns, dtype=torch.float64) for _ in range(3)]


def trained(flow: Flow) -> list[Tensor]:
    """The normalised weights of a flow."""
    layers: Iterable[LipschitzLayer] = (one for one in flow.modules() if isinstance(one, LipschitzLinear))
    return [layer.normalised().detach().double() for layer in layers]


def searched(matrix: Tensor, p: float, q: float) -> float:
    """The largest result of the power method over many starts."""
    starts = torch.randn(STARTS, matrix.shape[1], dtype=torch.float64)
    return induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, starts, p, q).sigma.max().item()


if __name__ == "__main__":
    main()
