"""Kind and number of probes, and the cost of adapting the law, for a trained flow: docs/decisions/005-probes.md.

    python -m experiments.benchmarks.probes --run runs/digits-0

The run is trained by `contraflow train digits --seed 0 --out runs/digits-0`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from contraflow import TRAINING, AdaptiveRoulette, Flow, PowerSeries, ResidualBlock, update_lipschitz
from contraflow.bijections import with_logdet
from contraflow.logdet.adaptive import BEGINNING, EVERY
from contraflow.logdet.probes import Gaussian, PairedRademacher
from contraflow.runs import load_run
from contraflow.runs.build import load_data
from experiments.benchmarks.estimators import block_inputs, dense_jacobians
from experiments.benchmarks.pages import fill
from experiments.benchmarks.timing import hardware

DRAWS = 40
GROUPS = 5
BATCH = 64
PAGE = Path(__file__).parents[2] / "docs/decisions/005-probes.md"

_PROBES = {
    "Gaussian": PowerSeries(5, Gaussian()),
    "Rademacher": PowerSeries(5),
    "2 Rademacher": PowerSeries(5, probes=2),
    "a pair": PowerSeries(5, PairedRademacher(), 2),
}


def main() -> None:
    """Print all tables and write them to the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits-0"), help="folder of a trained run")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    trained = load_run(run)
    data = load_data(trained.recipe.data, trained.recipe.seed)
    flow = trained.flow.requires_grad_(True)
    for marker, part, rows in (
        ("step costs", step_costs, data.train),
        ("probe pairs", probe_table, data.test),
        ("gradient noise", shares, data.train),
        ("deflation", deflation_table, data.test),
    ):
        text = "\n".join(part(flow, rows))
        print(f"{text}\n", flush=True)
        fill(PAGE, marker, text)


def gradient(flow: nn.Module, loss: Tensor) -> Tensor:
    """The gradient of all parameters as one vector."""
    gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def total_variance(draw: Callable[[], Tensor]) -> tuple[float, float]:
    """Sum over components of the variance over draws, and its standard error over `GROUPS` groups of draws."""
    variances = [torch.stack([draw() for _ in range(DRAWS // GROUPS)]).var(0).sum().item() for _ in range(GROUPS)]
    return statistics.mean(variances), statistics.stdev(variances) / math.sqrt(GROUPS)


def shares(flow: Flow, data: Tensor) -> list[str]:
    """Variance of the gradient of a batch's mean loss: due to probes and truncation, and due to data and noise."""
    generator = Generator().manual_seed(0)
    lines = [
        "| estimator | variance from probes and truncation | from data | products | total variance × products |",
        "|" + "---|" * 5,
    ]

    def batch() -> Tensor:
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        return flow.preprocessing.forward(data[rows], generator=generator)

    best, fixed = 0.0, batch()
    for name, estimator in {
        "the paper's": replace(TRAINING, probe=Gaussian()),
        "`TRAINING`": TRAINING,
        "`TRAINING`, 2 probes": replace(TRAINING, probes=2),
        "`TRAINING`, a pair": replace(TRAINING, probe=PairedRademacher(), probes=2),
    }.items():
        twin = with_logdet(Flow(flow.event_shape, flow.bijection, flow.base), estimator)

        def draw(y: Tensor, twin: Flow = twin) -> Tensor:
            return gradient(twin, -twin.log_prob(y, generator=generator).mean())

        noise, noise_error = total_variance(lambda draw=draw: draw(fixed))
        both, both_error = total_variance(lambda draw=draw: draw(batch()))
        cost = 4 + estimator.probes * 7
        rest = f"{both - noise:.0f} ± {math.hypot(noise_error, both_error):.0f}"
        lines.append(f"| {name} | {noise:.0f} ± {noise_error:.0f} | {rest} | {cost} | {both * cost:.0f} |")
        if estimator == TRAINING:
            best = math.sqrt(4 * noise / (7 * max(both - noise, 1e-9)))
    return [*lines, "", f"Optimal number of probes, from the second row: √(4 · estimator / (7 · data)) = {best:.2f}."]


def step_costs(flow: Flow, data: Tensor, groups: int = 25) -> list[str]:
    """Processor time of training steps in turns: adaptive estimators with law updates at no, some or all steps, and
    `TRAINING`.

    The first three share one flow and one law; the number of passes determines whether the law is updated.
    """
    one = with_logdet(flow, AdaptiveRoulette()).train()
    pair = with_logdet(flow, AdaptiveRoulette(PairedRademacher(), 2)).train()
    steps: dict[str, tuple[Flow, Callable[[int], int]]] = {
        "adaptive, without updates of the law": (one, lambda step: BEGINNING + 1),
        "adaptive, first 100 steps": (one, lambda step: 0),
        "adaptive, later": (one, lambda step: BEGINNING + step),
        "adaptive, a pair, later": (pair, lambda step: BEGINNING + step),
        "`TRAINING`": (with_logdet(flow, TRAINING).train(), lambda step: 0),
    }
    for number in range(BEGINNING):
        for twin in (one, pair):
            twin.log_prob(data[batch_rows(data, number)], generator=Generator().manual_seed(number))
    spent: dict[str, list[float]] = {name: [] for name in steps}
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.0)
    for group in range(-1, groups):  # the first group is a warm-up
        for name, (twin, passes) in random.Random(group).sample(list(steps.items()), len(steps)):
            start = time.process_time()
            for step in range(EVERY):
                for block in residual_blocks(twin):
                    if block.decay is not None:
                        block.decay.passes.fill_(passes(step))
                train_step(flow, twin, optimiser, data, EVERY * (group + 1) + step)
            spent[name].append((time.process_time() - start) / EVERY)
    base = spent["adaptive, without updates of the law"][1:]
    lines = ["| step | ms of CPU time | more than without updates |", "|" + "---|" * 3]
    for name, values in spent.items():
        more = [100 * (a / b - 1) for a, b in zip(values[1:], base, strict=True)]
        low, middle, high = statistics.quantiles(more, n=4) if any(more) else (0.0, 0.0, 0.0)
        cell = f"{middle:.1f} % ({low:.1f} to {high:.1f})" if any(more) else ""
        lines.append(f"| {name} | {1e3 * statistics.median(values[1:]):.1f} | {cell} |")
    return [
        *lines,
        "",
        f"{hardware()}; one thread; medians and quartiles of {groups} groups of {EVERY} steps in turns.",
    ]


def batch_rows(data: Tensor, number: int) -> Tensor:
    """The rows of step `number`."""
    return torch.randint(len(data), (BATCH,), generator=Generator().manual_seed(number))


def train_step(flow: Flow, twin: Flow, optimiser: torch.optim.Optimizer, data: Tensor, number: int) -> None:
    """One step with a learning rate of 0, with the same rows and noise for all twins of the flow."""
    update_lipschitz(flow)
    optimiser.zero_grad()
    generator = Generator().manual_seed(number)
    (-twin.log_prob(data[batch_rows(data, number)], generator=generator).mean()).backward()
    optimiser.step()


def residual_blocks(flow: nn.Module) -> list[ResidualBlock]:
    """All residual blocks of a flow."""
    return [module for module in flow.modules() if isinstance(module, ResidualBlock)]


def probe_table(flow: Flow, data: Tensor) -> list[str]:
    """Variance of the value and of the parameters' gradient of each block, relative to one Rademacher probe."""
    lines = [
        f"| block | {' | '.join(f'{name}: gradient, value' for name in _PROBES)} |",
        "|" + "---|" * (1 + len(_PROBES)),
    ]
    for number, (block, x) in enumerate(block_inputs(flow, data[:1]).values(), 1):
        found = {}
        for name, estimator in _PROBES.items():
            twin, generator = with_logdet(block, estimator), Generator().manual_seed(1)

            def draw(_: int, twin: ResidualBlock = twin, generator: Generator = generator, x: Tensor = x) -> Tensor:
                value = twin.forward_and_logdet(x, generator=generator)[1].sum()
                return torch.cat([value.detach()[None], gradient(twin, value)])

            variances = torch.stack([draw(one) for one in range(DRAWS)]).var(0)
            found[name] = (variances[1:].sum().item(), variances[0].item())
        base = found["Rademacher"]
        cells = [f"{a / base[0]:.2f}, {b / base[1]:.2f}" for a, b in found.values()]
        lines.append(f"| {number}: {'×'.join(map(str, x.shape[1:]))} | {' | '.join(cells)} |")
    return lines


def deflation_table(flow: Flow, data: Tensor, rows: int = 32) -> list[str]:
    """Share of the first term's variance left without k eigenvectors of the off-diagonal part, or without E J."""
    lines = [
        "| block | share of the diagonal in the symmetric part | k = 1 | 2 | 3 | 4 | J minus its mean |",
        "|" + "---|" * 7,
    ]
    for number, (block, x) in enumerate(block_inputs(flow.double(), data[:rows].double()).values(), 1):
        matrix = dense_jacobians(block, x)
        symmetric = (matrix + matrix.mT) / 2
        whole = off_diagonal(symmetric)
        cells = [1 - whole / symmetric.square().sum().item()]
        values, vectors = torch.linalg.eigh(symmetric - torch.diag_embed(symmetric.diagonal(dim1=1, dim2=2)))
        for k in range(1, 5):
            top = values.abs().topk(k, dim=1).indices
            best = vectors.gather(2, top[:, None, :].expand(-1, vectors.shape[1], -1))
            rest = torch.eye(vectors.shape[1], dtype=x.dtype) - best @ best.mT
            cells.append(off_diagonal(rest @ symmetric @ rest) / whole)
        cells.append(off_diagonal(symmetric - symmetric.mean(0)) / whole)
        lines.append(f"| {number}: {'×'.join(map(str, x.shape[1:]))} | {' | '.join(f'{one:.2f}' for one in cells)} |")
    return lines


def off_diagonal(matrices: Tensor) -> float:
    """Σ_{i≠j} of squared entries over all matrices: half the variance of a Rademacher probe."""
    return (matrices.square().sum() - matrices.diagonal(dim1=1, dim2=2).square().sum()).item()


if __name__ == "__main__":
    main()
