"""Inverse of residual blocks, Picard and Anderson iteration: docs/generated/inverse.md.

    python -m experiments.benchmarks.inverse --runs runs

Measures the runs checkerboard-0, digits-0, power-0 and mnist-0 that are in the folder. Their rows are stored in
docs/generated/inverse.json, so that the rows of absent runs are kept.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from contraflow.bijections import InverseSolution, ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzMLP, update_lipschitz
from contraflow.numerics import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.runs import load_run
from experiments.benchmarks.pages import GENERATED
from experiments.benchmarks.timing import hardware

#: Tolerances of drawing samples and of their reconstruction; number of samples whose blocks are also solved alone.
DRAWN, TOLERANCE, ALONE = 1e-3, 1e-6, 1000
#: Runs whose solvers are compared, and runs in the last table only, since a comparison would take hours.
RUNS, SAMPLED = ("checkerboard-0", "digits-0", "power-0"), ("mnist-0",)
#: Rows of the runs measured so far; the page is in the same folder.
KEPT = GENERATED / "inverse.json"
HEADER = (
    "| flow | dtype, batch | Picard: evaluations | calls | CPU s | Anderson: evaluations | calls | CPU s "
    "| evaluations, ratio | of blocks and samples, worse | by | given up: Picard, Anderson | largest true residual |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)
SAMPLING_HEADER = (
    "| flow | samples | evaluations | whole: bound holds | largest ‖x - x'‖∞ | smallest bound "
    "| blocks: bound holds | largest error | largest bound |\n|---|---|---|---|---|---|---|---|---|\n"
)
TEXT = """# The inverse, measured

A residual block is inverted by a fixed-point iteration. This page counts what the iteration costs, on trained flows
and on blocks that are made to be hard, and checks whether the stated error bounds hold.
[maths/fixed-point-inverse.md](../maths/fixed-point-inverse.md) explains the solvers and derives what is guaranteed.

Written by `python -m experiments.benchmarks.inverse --runs RUNS`; one thread, seed 0:

{runs}
- stressed blocks, on {hardware}

The columns of the tables:

- *Evaluations* of g are counted per sample and block, including the last one, which confirms the solution.
- *Calls* of g are counted per block for the whole batch, so that the slowest sample counts.
- *CPU s* is the processor time of the process, in one repetition.
- *Worse* is the share of pairs of sample and block on which Anderson took more evaluations than Picard, and by how
  many at most.
- *Given up* are pairs that did not reach the tolerance because rounding allows no shorter step.
- *Largest true residual* is ‖z - x - g(x)‖₂/√D, computed again in float64 for the solutions of Anderson.

## Trained flows, tolerance 1e-6

{trained}
## Stressed blocks, tolerance 1e-5

The layers of these blocks are at their bound, semi-orthogonal and aligned, so that a branch of two layers really has
the Lipschitz constant L = 0.6 or 0.84. There are 200 samples from 3·N(0, 1), in float64.

{stressed}
## Samples and their bounds

Points x = f⁻¹(z) are drawn with z ~ N(0, 1) at the coarse tolerance {drawn:g}, since any x will do. Then x' =
f⁻¹(f(x)) is computed by `flow.invert` in float64 at tolerance {tolerance:g}, before the preprocessing is undone, and
compared with x. For the first {alone:,} samples every block is also solved alone where its solution is known, for z'
= x' + g(x'). Rounding is allowed for by 100 ε (1 + ‖x‖₂)/(1 - L) with ε = 2.2e-16.

{sampling}
The bound of the whole flow multiplies 1/(1 - L) over the blocks: it holds, but with many blocks it is so large that
it says nothing. The bounds of single blocks are informative.
"""


@dataclass(frozen=True)
class Problem:
    """A block and the z to invert, in float64."""

    block: ResidualBlock
    z: Tensor


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of the last table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in (*RUNS, *SAMPLED):
        if (arguments.runs / name).is_dir():
            flow = load_run(arguments.runs / name, dtype="float64").flow
            kept[name] = {
                "state": state(arguments.runs / name),
                "hardware": hardware(),
                "solvers": trained_rows(name, flow) if name in RUNS else "",
                "samples": sampling_row(name, flow, arguments.samples),
            }
            KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    rows = [kept[name] for name in (*RUNS, *SAMPLED) if name in kept]
    text = TEXT.format(
        runs="\n".join(f"- {one['state']}, on {one['hardware']}" for one in rows),
        trained=HEADER + "".join(one["solvers"] for one in rows),
        stressed=HEADER + "".join(stressed_rows()),
        sampling=SAMPLING_HEADER + "".join(one["samples"] for one in rows),
        hardware=hardware(),
        drawn=DRAWN,
        tolerance=TOLERANCE,
        alone=ALONE,
    )
    KEPT.with_suffix(".md").write_text(text)


def state(folder: Path) -> str:
    """Name and step of the measured checkpoint of a run."""
    newest = max(one.name for one in (folder / "checkpoints").iterdir())
    return f"{folder.name} at step {int(newest)}" if newest.isdigit() else folder.name


def problems(flow: Flow, n: int) -> list[Problem]:
    """The inputs of the inverses of all blocks while n samples are drawn."""
    z = flow.base.sample(n, generator=Generator().manual_seed(0))
    blocks = dict(flow.named_modules())
    out = []
    for one in flow.with_inverse(Anderson(1e-11)).invert(z).blocks:
        block = blocks[one.name]
        assert isinstance(block, ResidualBlock)
        out.append(Problem(block, block.forward(one.solution.value).detach()))
    return out


def trained_rows(name: str, flow: Flow) -> str:
    """Rows of a flow in both precisions, with batches of 1,000 and of 1."""
    many, one = problems(flow, 1000), problems(flow, 1)
    cases = itertools.product((torch.float64, torch.float32), (many, one))
    return "".join(row(name, given, dtype, 1e-6) for dtype, given in cases)


def stressed_rows() -> Iterator[str]:
    """Rows of dense branches that use their Lipschitz bound in all directions."""
    for dimensions in (2, 6, 16):
        for bound in (0.775, 0.917):
            for kind in ("rotation", "plus", "minus"):
                block = ResidualBlock(aligned(dimensions, bound, kind))
                z = 3 * torch.randn(200, dimensions, dtype=torch.float64, generator=Generator().manual_seed(0))
                name = f"{kind}, D = {dimensions}, L = {block.g.lipschitz_bound():.2f}"
                yield row(name, [Problem(block, z)], torch.float64, 1e-5)


def aligned(dimensions: int, bound: float, kind: str) -> LipschitzMLP:
    """Two semi-orthogonal layers of norm `bound` around an ELU, the second mapping back the image of the first."""
    generator = Generator().manual_seed(0)
    g = LipschitzMLP(dimensions, (4 * dimensions,), bound=bound, activation="elu", preactivation=False).double()
    frame = torch.linalg.qr(torch.randn(4 * dimensions, dimensions, dtype=torch.float64, generator=generator))[0]
    turn = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator))[0]
    ends = {"rotation": turn, "plus": torch.eye(dimensions), "minus": -torch.eye(dimensions)}
    with torch.no_grad():
        for layer, weight in zip(g.layers, (frame, ends[kind].to(frame) @ frame.T), strict=True):
            layer.weight.copy_(5 * weight)
            layer.bias.fill_(1.0)
    update_lipschitz(g)
    return g


@dataclass(frozen=True)
class Measurement:
    """Cost and accuracy of a solver; tensors are ``(problems, batch)``."""

    iterations: Tensor
    converged: Tensor
    calls: float
    seconds: float
    worst: float


@torch.no_grad()
def measure(given: list[Problem], solver: FixedPointSolver, dtype: torch.dtype) -> Measurement:
    """Solve all problems."""
    solutions: list[FixedPoint] = []
    calls, seconds, worst = 0, 0.0, 0.0
    for one in given:
        g, z = copy.deepcopy(one.block.g).to(dtype), one.z.to(dtype)
        tensors, bound = g.tensors(), one.block.g.lipschitz_bound()
        count = [0]

        def function(
            x: Tensor, rows: Tensor, g=g, z=z, tensors=tensors, count: list[int] = count
        ) -> Tensor:  # defaults bind the loop variables
            count[0] += 1
            return z[rows] - g.value(tensors, x)

        begin = time.process_time()
        solutions.append(solver.solve(function, z, 2.0, bound))
        seconds += time.process_time() - begin
        calls += count[0]
        x = solutions[-1].value.double()
        exact = copy.deepcopy(g).double()
        residual = (z.double() - x - exact.value(exact.tensors(), x)).flatten(1).norm(dim=1)
        worst = max(worst, *(residual[solutions[-1].converged] / math.sqrt(x[0].numel())).tolist(), 0.0)
    iterations = torch.stack([one.iterations for one in solutions])
    converged = torch.stack([one.converged for one in solutions])
    return Measurement(iterations, converged, calls / len(given), seconds, worst)


def row(name: str, given: list[Problem], dtype: torch.dtype, tolerance: float) -> str:
    """A row that compares Picard and Anderson."""
    picard, anderson = (measure(given, kind(tolerance), dtype) for kind in (Picard, Anderson))
    ours, theirs = anderson.iterations.double(), picard.iterations.double()
    both = picard.converged & anderson.converged
    extra = (ours - theirs)[both]
    cells = [
        name,
        f"{str(dtype)[6:]}, {len(given[0].z)}",
        f"{theirs.mean():.2f}",
        f"{picard.calls:.1f}",
        f"{picard.seconds:.2f}",
        f"{ours.mean():.2f}",
        f"{anderson.calls:.1f}",
        f"{anderson.seconds:.2f}",
        f"{ours.mean() / theirs.mean():.2f}",
        f"{100 * (extra > 0).double().mean():.2f} %",
        f"{max(0, int(extra.max()))}",
        f"{int((~picard.converged).sum())}, {int((~anderson.converged).sum())}",
        f"{anderson.worst:.1e}",
    ]
    return "| " + " | ".join(cells) + " |\n"


@torch.no_grad()
def sampling_row(name: str, flow: Flow, samples: int) -> str:
    """The row of a flow, computed for a thousand samples at a time."""
    body = Flow((flow.base.sample(1)[0].shape), flow.bijection)  # without the preprocessing
    coarse = copy.deepcopy(body).float().with_inverse(Anderson(DRAWN))
    exact = body.with_inverse(Anderson(TOLERANCE))
    bounds = Bounds()
    generator = Generator().manual_seed(0)
    for begin in range(0, samples, 1000):
        z = flow.base.sample(min(1000, samples - begin), generator=generator)
        x = coarse.invert(z.float()).value.double()
        back = exact.invert(exact.bijection(x))
        bounds.whole(back, x)
        if begin < ALONE:
            bounds.blocks(exact, back, x)
    return "| " + " | ".join([name, f"{samples:,}", *bounds.cells()]) + " |\n"


@dataclass
class Bounds:
    """Error bounds and errors, of whole inverses and of blocks whose solution is known."""

    samples: int = 0
    samples_hold: int = 0
    distance: float = 0.0
    smallest: float = math.inf
    evaluations: int = 0
    solves: int = 0
    pairs: int = 0
    pairs_hold: int = 0
    error: float = 0.0
    bound: float = 0.0

    def whole(self, back: InverseSolution, x: Tensor) -> None:
        """Compare the error of x' = f⁻¹(f(x)) with its bound."""
        distance = (back.value - x).flatten(1).abs().amax(dim=1)
        self.samples += len(x)
        self.samples_hold += int((distance <= back.error_bound).sum())
        self.distance = max(self.distance, distance.max().item())
        self.smallest = min(self.smallest, back.error_bound.min().item())
        self.evaluations += int(back.evaluations.sum())
        self.solves += len(x) * len(back.blocks)

    def blocks(self, flow: Flow, back: InverseSolution, x: Tensor) -> None:
        """Compare the error of each block for z' = x' + g(x'), whose solution x' is known, with its bound."""
        modules = dict(flow.named_modules())
        for one in back.blocks:
            block = modules[one.name]
            assert isinstance(block, ResidualBlock)
            truth = one.solution.value
            solved = block.solve(block.forward(truth))
            error = (solved.value - truth).flatten(1).norm(dim=1)
            bound = block.inverse_error_bound(solved)
            self.pairs += len(x)
            self.pairs_hold += int((error <= bound + rounding(truth, one.lipschitz_bound)).sum())
            self.error, self.bound = max(self.error, error.max().item()), max(self.bound, bound.max().item())

    def cells(self) -> list[str]:
        """The cells of a row."""
        blocks = [f"{self.pairs_hold:,} of {self.pairs:,}", f"{self.error:.1e}", f"{self.bound:.1e}"]
        whole = [f"{self.samples_hold:,} of {self.samples:,}", f"{self.distance:.1e}", f"{self.smallest:.1e}"]
        return [f"{self.evaluations / self.solves:.2f}", *whole, *blocks]


def rounding(x: Tensor, growth: float) -> Tensor:
    """An allowance for rounding errors."""
    return 100 * torch.finfo(x.dtype).eps * (1 + x.flatten(1).norm(dim=1)) * growth


if __name__ == "__main__":
    main()
