"""Variation of cost and peak memory between training steps.

    python -m experiments.benchmarks.steadiness [--device cuda] [--steps 500]

Writes the section `steadiness` of docs/generated/benchmarks.md, or `cuda steadiness`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import normflows as nf
import numpy as np
import torch
from torch import Tensor, nn

from contraflow.bijections import ResidualBlock
from contraflow.lipschitz import update_lipschitz
from contraflow.logdet import LogDetEstimator, PowerSeries, RussianRoulette, Vjp
from experiments.benchmarks.cases import TERMS, Case
from experiments.benchmarks.pages import BENCHMARKS, fill, on
from experiments.benchmarks.timing import hardware, synchronise
from experiments.paper.peak import allocations, peak

STEPS = 500
BLOCKS = 4
CASE = Case("", (3, 8, 8), (BLOCKS,), 32, 16)
#: Power iterations of an update, the same number for both libraries and at all steps.
ITERATIONS = 5


class Candidate(ABC):
    """A flow in training whose steps are measured.

    Args:
        name: for the table.
        beside: evaluations of g in a step in addition to the series; None if their number is not fixed.
    """

    def __init__(self, name: str, flow: nn.Module, beside: int | None, device: str) -> None:
        self.name, self.beside = name, beside
        self.flow = flow.to(device).train()
        self.x = CASE.data(device)
        self.optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)

    def step(self) -> None:
        """Lipschitz update, then `learn`."""
        self.update()
        self.learn()

    def learn(self) -> None:
        """Forward, backward and optimiser; gradients are removed afterwards."""
        (-self.log_prob().mean()).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    @abstractmethod
    def update(self) -> None:
        """The Lipschitz update."""

    @abstractmethod
    def log_prob(self) -> Tensor:
        """log p(x) of the batch."""

    @abstractmethod
    def products(self) -> list[float]:
        """Products of the series for each sample in the last step, for each block."""


class Ours(Candidate):
    """Our flow, with a count of the rows in each product with Jᵀ."""

    def __init__(self, name: str, logdet: LogDetEstimator, device: str) -> None:
        super().__init__(name, CASE.ours(logdet), 7, device)
        self.generator = torch.Generator(device).manual_seed(0)
        self.rows = [0] * BLOCKS
        blocks = [block for block in self.flow.modules() if isinstance(block, ResidualBlock)]
        for index, block in enumerate(blocks):
            block.g.linearize = self._counted(index, block.g.linearize)  # type: ignore[method-assign]

    def _counted(self, index: int, linearize: Callable[..., tuple[Tensor, Vjp]]) -> Callable[..., tuple[Tensor, Vjp]]:
        def linearize_and_count(tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
            gx, vjp = linearize(tensors, x)
            self.rows[index] = 0

            def counted(u: Tensor) -> Tensor:
                self.rows[index] += u.shape[0] * u.shape[1]
                return vjp(u)

            return gx, Vjp(counted)

        return linearize_and_count

    def update(self) -> None:
        update_lipschitz(self.flow, tolerance=0.0, max_iterations=ITERATIONS)

    def log_prob(self) -> Tensor:
        return self.flow.log_prob(self.x, generator=self.generator)  # type: ignore[operator]

    def products(self) -> list[float]:
        return [rows / len(self.x) for rows in self.rows]


class Peer(Candidate):
    """normflows, which draws one number of terms for each block and batch and stores it in a buffer."""

    def __init__(self, name: str, scheme: str, beside: int | None, device: str) -> None:
        super().__init__(name, CASE.peer(scheme, None), beside, device)
        self.blocks = [block for block in self.flow.modules() if isinstance(block, nf.flows.residual.iResBlock)]

    def update(self) -> None:
        nf.utils.update_lipschitz(self.flow, ITERATIONS)

    def log_prob(self) -> Tensor:
        return self.flow.log_prob(self.x)  # type: ignore[operator]

    def products(self) -> list[float]:
        return [block.n_exact_terms + block.last_n_samples.item() for block in self.blocks]


@dataclass
class Record:
    """Measurements of a candidate: products of the series for each sample, by step and block; seconds; bytes."""

    products: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fill(BENCHMARKS, on(arguments.device, "steadiness"), section(arguments.device, arguments.steps))


def section(device: str = "cpu", steps: int = STEPS) -> str:
    """Text and table."""
    candidates = [
        Ours("ours, stratified (default)", RussianRoulette(), device),
        Ours("ours, independent", RussianRoulette(stratified=False), device),
        Ours(f"ours, {TERMS} terms always", PowerSeries(TERMS), device),
        Peer("peer, Neumann + backward in forward", "neumann + backward in forward", 8, device),
        Peer("peer, series", "series", None, device),
    ]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # normflows draws its numbers of terms from numpy's global state
    records = watch(candidates, steps, device)
    rows = [
        "| | products of the series per sample | cost, evaluations of g | its variation | largest/mean | of one "
        "block | processor s, median | its variation | peak, MB | its variation | largest/mean |",
        f"|---|{'---|' * 10}",
    ]
    rows += [row(one, record) for one, record in zip(candidates, records, strict=True)]
    return "\n\n".join([about(device, steps), "\n".join(rows)])


def watch(candidates: Sequence[Candidate], steps: int, device: str) -> list[Record]:
    """Measure the cost of `steps` steps, candidates in turns, and then the peaks of `steps` steps."""
    records = [Record() for _ in candidates]
    for turn in range(-3, steps):
        for one, record in zip(candidates, records, strict=True):
            seconds = processor_seconds(one.step)
            if turn >= 0:
                record.seconds.append(seconds)
                record.products.append(one.products())
    for _ in range(steps):
        for one, record in zip(candidates, records, strict=True):
            one.update()
            record.peaks.append(peak(allocations(one.learn, device)))
    return records


def processor_seconds(step: Callable[[], None]) -> float:
    """Processor time of a step, which depends less on other processes than wall-clock time."""
    synchronise()
    start = time.process_time()
    step()
    synchronise()
    return time.process_time() - start


def row(one: Candidate, record: Record) -> str:
    """One line of the table."""
    series = [statistics.mean(blocks) for blocks in record.products]
    cells = [one.name, f"{statistics.mean(series):.2f}"]
    if one.beside is None:
        cells += ["–"] * 4
    else:
        cost = [one.beside + n for n in series]
        of_a_block = [one.beside + n for blocks in record.products for n in blocks]
        cells += [f"{statistics.mean(cost):.2f}", percent(cost), largest(cost), percent(of_a_block)]
    cells += [f"{statistics.median(record.seconds):.4f}", percent(record.seconds)]
    cells += [f"{statistics.mean(record.peaks) / 1e6:.2f}", percent(record.peaks), largest(record.peaks)]
    return f"| {' | '.join(cells)} |"


def percent(values: Sequence[float]) -> str:
    """Standard deviation over mean."""
    return f"{100 * statistics.stdev(values) / statistics.mean(values):.2f} %"


def largest(values: Sequence[float]) -> str:
    """Maximum over mean."""
    return f"{max(values) / statistics.mean(values):.3f}"


def about(device: str, steps: int) -> str:
    """Description of the measurement."""
    command = "python -m experiments.benchmarks.steadiness" + ("" if device == "cpu" else f" --device {device}")
    shape = "×".join(str(size) for size in CASE.event_shape)
    return (
        f"`{command} --steps {steps}` on {hardware()}.\n\n{BLOCKS} blocks 3×3 → 1×1 → 3×3 of {CASE.hidden} on "
        f"{shape}, {CASE.batch} images, smaller than the paper's flows. Two exact terms and Geometric(0.5), {TERMS} "
        f"expected; seed 0. *Variation* is the coefficient of variation, standard deviation over mean, of {steps} "
        "steps. Cost is a count: the rows in all products of the series over the batch size, averaged over blocks, "
        "plus 7 for ours (forward 1, dual pass 2, its backward 4) and 8 for the peer's Neumann gradient; for the "
        "peer's series it is not defined. *Of one block*: the variation over steps and blocks. Processor time is "
        f"that of the whole step, candidates in turns, on a shared machine: the line with {TERMS} terms at all steps "
        "shows how much of the variation is due to the machine. Peak: exact bytes of tensors above the memory that "
        f"lasts between steps, over {steps} more steps, without the Lipschitz update."
    )


if __name__ == "__main__":
    main()
