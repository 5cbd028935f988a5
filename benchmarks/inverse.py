"""Measure the inverse of residual blocks and write docs/inverse.md.

    python -m benchmarks.inverse --runs runs

Takes the runs digits-0, checkerboard-0, power-0 and mnist-0 of that folder, as many as there are.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.results import hardware
from contraflow.bijections import ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzMLP, update_lipschitz
from contraflow.numerics import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.recipes import load_run

RUNS = ("checkerboard-0", "digits-0", "power-0", "mnist-0")
HEADER = (
    "| flow | dtype, batch | Picard: evaluations | calls | CPU s | Anderson: evaluations | calls | CPU s "
    "| evaluations, ratio | of blocks and samples, worse | by | given up: Picard, Anderson | largest true residual |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)
TEXT = """# The inverse, measured

Written by `python -m benchmarks.inverse --runs RUNS` on {hardware}; one thread, seed 0. {runs}

*Evaluations* of g are per sample and block, the last, confirming one included; *calls* of g are per block for the whole
batch, so the slowest sample counts; CPU s is the time of the process, one repetition. *Worse*: share of pairs of sample
and block on which Anderson took more evaluations than Picard, and by how many at most. *Given up*: pairs that did not
reach the tolerance, where rounding allows no shorter step. The true residual ‖z - x - g(x)‖₂/√D is computed again in
float64, of the pairs that arrived, for Anderson. What the solvers are and what is guaranteed:
[maths/fixed-point-inverse.md](maths/fixed-point-inverse.md).

## Trained flows, tolerance 1e-6

{trained}
## Stressed blocks, tolerance 1e-5

Layers at their bound, semi-orthogonal and aligned, so that a branch of two layers really contracts by L = 0.6 to 0.84;
200 samples, 3·N(0, 1), float64.

{stressed}
## Samples and their bounds

z ~ N(0, 1); x = f⁻¹(z) by `flow.invert`, then x' = f⁻¹(f(x)), in float64 at its default tolerance 1e-11, before the
preprocessing is undone. The bound of a block is tested against its true solution: x is that of z' = x + g(x), computed
block by block. Rounding is allowed for by 100 ε (1 + ‖x‖₂)/(1 - L), ε = 2.2e-16.

{sampling}
The bound of the whole multiplies 1/(1 - L) over the blocks: it holds, and with many blocks it says nothing. The bounds
of the blocks are what to read.
"""


@dataclass(frozen=True)
class Problem:
    """One block and the z it is to invert, in float64."""

    block: ResidualBlock
    z: Tensor


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of the last table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders = [arguments.runs / name for name in RUNS if (arguments.runs / name).is_dir()]
    flows = {folder.name: load_run(folder, dtype="float64").flow for folder in folders}
    trained = HEADER + "".join(line for name, flow in flows.items() for line in trained_rows(name, flow))
    stressed = HEADER + "".join(stressed_rows())
    sampling = sampling_table(flows, arguments.samples)
    text = TEXT.format(
        hardware=hardware(),
        runs="; ".join(state(folder) for folder in folders) + ".",
        trained=trained,
        stressed=stressed,
        sampling=sampling,
    )
    (Path(__file__).parents[1] / "docs" / "inverse.md").write_text(text)


def state(folder: Path) -> str:
    """Which checkpoint of a run was measured."""
    newest = max(one.name for one in (folder / "checkpoints").iterdir())
    return f"{folder.name} at step {int(newest)}" if newest.isdigit() else folder.name


def problems(flow: Flow, n: int) -> list[Problem]:
    """What the blocks of a flow are given while n samples are drawn."""
    z = flow.base.sample(n, generator=Generator().manual_seed(0))
    blocks = dict(flow.named_modules())
    out = []
    for one in flow.with_inverse(Anderson(1e-11)).invert(z).blocks:
        block = blocks[one.name]
        assert isinstance(block, ResidualBlock)
        out.append(Problem(block, block.forward(one.found.value).detach()))
    return out


def trained_rows(name: str, flow: Flow) -> Iterator[str]:
    """A flow in both precisions and batches of 1,000 and of 1."""
    many, one = problems(flow, 1000), problems(flow, 1)
    for dtype in (torch.float64, torch.float32):
        for given in (many, one):
            yield row(name, given, dtype, 1e-6)


def stressed_rows() -> Iterator[str]:
    """Dense branches that contract in every direction."""
    for dimensions in (2, 6, 16):
        for bound in (0.775, 0.917):
            for kind in ("rotation", "plus", "minus"):
                block = ResidualBlock(aligned(dimensions, bound, kind))
                z = 3 * torch.randn(200, dimensions, dtype=torch.float64, generator=Generator().manual_seed(0))
                name = f"{kind}, D = {dimensions}, L = {block.g.lipschitz_bound():.2f}"
                yield row(name, [Problem(block, z)], torch.float64, 1e-5)


def aligned(dimensions: int, bound: float, kind: str) -> LipschitzMLP:
    """Two semi-orthogonal layers of norm `bound`, the second back from where the first goes, around an ELU."""
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
    """What a solver needed for some problems, ``(problems, batch)`` where it is a tensor."""

    iterations: Tensor
    converged: Tensor
    calls: float
    seconds: float
    worst: float


@torch.no_grad()
def measure(given: list[Problem], solver: FixedPointSolver, dtype: torch.dtype) -> Measurement:
    """Solve every problem."""
    found: list[FixedPoint] = []
    calls, seconds, worst = 0, 0.0, 0.0
    for one in given:
        g, z = copy.deepcopy(one.block.g).to(dtype), one.z.to(dtype)
        tensors, bound = g.tensors(), one.block.g.lipschitz_bound()
        count = [0]

        def function(
            x: Tensor, rows: Tensor, g=g, z=z, tensors=tensors, count: list[int] = count
        ) -> Tensor:  # bound now, not at the call
            count[0] += 1
            return z[rows] - g.value(tensors, x)

        begin = time.process_time()
        found.append(solver.solve(function, z, 2.0, bound))
        seconds += time.process_time() - begin
        calls += count[0]
        x = found[-1].value.double()
        exact = copy.deepcopy(g).double()
        residual = (z.double() - x - exact.value(exact.tensors(), x)).flatten(1).norm(dim=1)
        worst = max(worst, *(residual[found[-1].converged] / math.sqrt(x[0].numel())).tolist(), 0.0)
    iterations = torch.stack([one.iterations for one in found])
    converged = torch.stack([one.converged for one in found])
    return Measurement(iterations, converged, calls / len(given), seconds, worst)


def row(name: str, given: list[Problem], dtype: torch.dtype, tolerance: float) -> str:
    """Picard and Anderson side by side."""
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


def sampling_table(flows: dict[str, Flow], samples: int) -> str:
    """Bounds against errors, for every sample and block."""
    text = (
        "| flow | samples | blocks | evaluations | block: bound holds | largest error | largest bound "
        "| whole: largest ‖x - x'‖∞ | bound holds | its smallest bound |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for name, flow in flows.items():
        text += sampling_row(name, flow, samples)
    return text


@torch.no_grad()
def sampling_row(name: str, flow: Flow, samples: int) -> str:
    """One flow, a thousand samples at a time."""
    body = Flow((flow.base.sample(1)[0].shape), flow.bijection)  # without the preprocessing
    blocks = dict(body.named_modules())
    generator = Generator().manual_seed(0)
    holds = whole = pairs = evaluations = 0
    error_max = bound_max = distance_max = 0.0
    smallest = math.inf
    for begin in range(0, samples, 1000):
        z = flow.base.sample(min(1000, samples - begin), generator=generator)
        first = body.invert(z)
        again = body.invert(flow.bijection(first.value))
        distance = (again.value - first.value).flatten(1).abs().amax(dim=1)
        for one in first.blocks:
            block = blocks[one.name]
            assert isinstance(block, ResidualBlock)
            x = one.found.value
            found = block.solve(block.forward(x))
            error = (found.value - x).flatten(1).norm(dim=1)
            bound = block.inverse_error_bound(found)
            holds += int((error <= bound + rounding(x, one.lipschitz_bound)).sum())
            pairs += len(x)
            error_max, bound_max = max(error_max, error.max().item()), max(bound_max, bound.max().item())
        evaluations += int(first.evaluations.sum())
        whole += int((distance <= again.error_bound).sum())
        distance_max, smallest = max(distance_max, distance.max().item()), min(smallest, again.error_bound.min().item())
    cells = [name, f"{samples:,}", f"{len(first.blocks)}", f"{evaluations / pairs:.2f}", f"{holds:,} of {pairs:,}"]
    cells += [f"{error_max:.1e}", f"{bound_max:.1e}", f"{distance_max:.1e}", f"{whole:,} of {samples:,}"]
    return "| " + " | ".join([*cells, f"{smallest:.1e}"]) + " |\n"


def rounding(x: Tensor, growth: float) -> Tensor:
    """What rounding may add to an error."""
    return 100 * torch.finfo(x.dtype).eps * (1 + x.flatten(1).norm(dim=1)) * growth


if __name__ == "__main__":
    main()
