"""Sampling and evaluation of trained flows, compared with the same weights in normflows.

    python -m experiments.benchmarks.throughput --runs RUNS [--device cuda]

Trains the runs checkerboard-0 and digits-0 if they are missing, and writes the section `throughput` of
docs/generated/benchmarks.md, or `cuda throughput`.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from contraflow.flow import Flow
from contraflow.logdet import EVALUATION, Exact
from contraflow.numerics import Anderson
from contraflow.runs import load_run
from experiments.benchmarks.pages import BENCHMARKS, fill, on
from experiments.benchmarks.peer import peer_copy, set_tolerance
from experiments.benchmarks.runs import trained
from experiments.benchmarks.timing import alternate, hardware

#: Root-mean-square step at which a block's inverse stops.
TOLERANCE = 1e-5


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=1000, help="number of samples, and of rows to score, in one batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=30, help="number of evaluations for a standard error")
    parser.add_argument(
        "--steps", type=int, help="number of training steps of a missing run; that of the recipe by default"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples, scores = [], []
    for name in ("checkerboard-0", "digits-0"):
        flow = load_run(trained(arguments.runs / name, arguments.steps)).flow.eval()
        flow = Flow(flow.event_shape, flow.bijection, flow.base)  # without preprocessing, which the peer lacks
        peer, flow = peer_copy(flow).to(arguments.device), flow.to(arguments.device)
        z = flow.base.sample(arguments.rows, generator=Generator(arguments.device).manual_seed(0))
        samples += sampling_rows(name, flow, peer, z, arguments.rounds)
        with torch.no_grad():
            x = flow.inverse(z)
        scores += evaluation_rows(name, flow, peer, x, arguments.rounds, arguments.repeats)
        print("\n".join(samples[-3:] + scores[-2:]), flush=True)
    text = TEXT.format(
        option="" if arguments.device == "cpu" else f" --device {arguments.device}",
        hardware=hardware(),
        rows=arguments.rows,
        rounds=arguments.rounds,
        repeats=arguments.repeats,
    )
    tables = SAMPLING + "\n".join(samples) + "\n\n" + SCORING + "\n".join(scores)
    fill(BENCHMARKS, on(arguments.device, "throughput"), text + tables)


TEXT = """`python -m experiments.benchmarks.throughput --runs RUNS{option}` on {hardware}. Batches of {rows} rows,
float32, medians of {rounds} rounds in turns; seconds of processor time, with a GPU wall-clock time; the same trained
weights for both libraries. Residual: largest ‖z - f(x)‖₂/√D of a row, f in float64, through all blocks. The peer's
tolerance is the largest 1e-5 · 2ᵏ whose residual is not larger than ours. Standard error of a row: root mean square
over rows of the standard deviation of {repeats} evaluations. The last column compares time × variance, the time to
the same standard error.

"""
SAMPLING = "| flow | sampling | seconds | ratio (quartiles) | residual |\n|---|---|---|---|---|\n"
SCORING = (
    "| flow | log p(x) | seconds | ratio (quartiles) | standard error | time to the same error, ratio |\n"
    "|---|---|---|---|---|---|\n"
)


@torch.no_grad()
def sampling_rows(name: str, flow: Flow, peer: nn.Module, z: Tensor, rounds: int) -> list[str]:
    """Rows for our flow, for the peer at the same residual, and for the peer with its default tolerance."""
    ours = flow.with_inverse(Anderson(tolerance=TOLERANCE))
    truth = copy.deepcopy(flow).double()

    def residual(x: Tensor) -> float:
        return (truth(x.double()) - z).flatten(1).norm(dim=1).max().item() / math.sqrt(flow.dimensions)

    strict = copy.deepcopy(peer)
    for power in range(8, -1, -1):
        set_tolerance(strict, TOLERANCE * 2**power)
        if residual(strict.forward(z)) <= residual(ours.inverse(z)):
            break
    sample = {
        "contraflow": lambda: ours.inverse(z),
        "normflows, same residual": lambda: strict.forward(z),
        "normflows, its default": lambda: peer.forward(z),
    }
    found = alternate(sample, rounds)
    rows = []
    for what, draw in sample.items():
        middle, low, high = found[what].ratio(found["contraflow"])
        seconds, left = found[what].median, residual(draw())
        rows.append(f"| {name} | {what} | {seconds:.3f} | {middle:.1f} ({low:.1f}–{high:.1f}) | {left:.0e} |")
    return rows


def evaluation_rows(name: str, flow: Flow, peer: nn.Module, x: Tensor, rounds: int, repeats: int) -> list[str]:
    """Rows for log p(x) by both libraries, exact in two dimensions."""
    ours = flow.with_logdet(Exact() if flow.dimensions == 2 else EVALUATION)
    score = {"contraflow": lambda: ours.log_prob(x), "normflows": lambda: peer.log_prob(x).detach()}
    with torch.no_grad():
        found = alternate(score, rounds)
        spread = {
            what: torch.stack([draw() for _ in range(repeats)]).var(dim=0).mean().sqrt().item()
            for what, draw in score.items()
        }
    rows = []
    for what in score:
        middle, low, high = found[what].ratio(found["contraflow"])
        error, own = spread[what], spread["contraflow"]
        same = "exact" if flow.dimensions == 2 else f"{middle * (error / own) ** 2:.1f}"
        cell = "0" if flow.dimensions == 2 else f"{error:.3f} nats"
        seconds = found[what].median
        rows.append(f"| {name} | {what} | {seconds:.3f} | {middle:.1f} ({low:.1f}–{high:.1f}) | {cell} | {same} |")
    return rows


if __name__ == "__main__":
    main()
