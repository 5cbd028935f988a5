"""Which probes, how many, and what learning the law costs, at a trained flow: docs/decisions/005-probes.md.

python -m benchmarks.probes RUN/digits-0
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from benchmarks.estimators import block_inputs, dense_jacobians
from benchmarks.results import hardware
from contraflow import (
    TRAINING,
    AdaptiveRoulette,
    Flow,
    Gaussian,
    PairedRademacher,
    PowerSeries,
    ResidualBlock,
    update_lipschitz,
)
from contraflow.bijections import with_logdet
from contraflow.recipes import load_run
from contraflow.recipes.build import load_data

DRAWS = 40
BATCH = 64

_PROBES = {
    "Gaussian": PowerSeries(5, Gaussian()),
    "Rademacher": PowerSeries(5),
    "2 Rademacher": PowerSeries(5, probes=2),
    "a pair": PowerSeries(5, PairedRademacher(), 2),
}


def main() -> None:
    """All figures, to the screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    trained = load_run(run)
    data = load_data(trained.recipe.data, trained.recipe.seed)
    flow = trained.flow.requires_grad_(True)
    print(f"{run.name}; {hardware()}, one thread")
    for part in (overhead, probe_table, shares, deflation_table):
        print("\n".join(part(flow, data.train if part in (overhead, shares) else data.test)), flush=True)


def gradient(flow: nn.Module, loss: Tensor) -> Tensor:
    """Of all parameters, in one vector."""
    found = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    return torch.cat([one.flatten() for one in found if one is not None])


def total_variance(draw: Callable[[int], Tensor], draws: int) -> float:
    """Sum over components of the variance over draws."""
    return torch.stack([draw(number) for number in range(draws)]).var(0).sum().item()


def shares(flow: Flow, data: Tensor) -> list[str]:
    """Variance of the gradient of a batch's mean loss: in all, and from probes and truncation alone."""
    generator = Generator().manual_seed(0)
    lines = [
        f"\n| estimator | from estimator | from data | products | variance × products | (batch {BATCH}, {DRAWS} draws)",
        "",
    ]

    def draw(twin: Flow, rows: Tensor) -> Tensor:
        return gradient(twin, -twin.log_prob(data[rows], generator=generator).mean())

    for name, estimator in {
        "paper": type(TRAINING)(probe=Gaussian()),
        "TRAINING": TRAINING,
        "TRAINING, 2 probes": type(TRAINING)(probes=2),
        "TRAINING, a pair": type(TRAINING)(probe=PairedRademacher(), probes=2),
    }.items():
        twin = with_logdet(flow, estimator)
        fixed = torch.randint(len(data), (BATCH,), generator=generator)
        noise = total_variance(lambda _, twin=twin, fixed=fixed: draw(twin, fixed), DRAWS)
        both = total_variance(
            lambda _, twin=twin: draw(twin, torch.randint(len(data), (BATCH,), generator=generator)), DRAWS
        )
        cost = 4 + estimator.probes * 7
        lines.append(f"| {name} | {noise:.3g} | {both - noise:.3g} | {cost} | {both * cost:.3g} |")
    return lines


def overhead(flow: Flow, data: Tensor, pairs: int = 40) -> list[str]:
    """CPU seconds of a training step with and without learning the law, under one and the same law, by turns."""
    twin = with_logdet(flow, AdaptiveRoulette()).train()
    plain = with_logdet(flow, AdaptiveRoulette()).train()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.0)
    blocks = list(zip(residual_blocks(plain), residual_blocks(twin), strict=True))
    for one, learned in blocks:
        one._modules["decay"] = learned.decay
        one.training = False
    spent: dict[str, list[float]] = {"learning": [], "not learning": []}
    for number in range(pairs + 5):
        rows = torch.randint(len(data), (BATCH,), generator=Generator().manual_seed(number))
        for name, model in (("learning", twin), ("not learning", plain)):
            start = time.process_time()
            update_lipschitz(flow)
            optimiser.zero_grad()
            (-model.log_prob(data[rows], generator=Generator().manual_seed(number)).mean()).backward()
            optimiser.step()
            spent[name].append(time.process_time() - start)
    medians = {name: statistics.median(values[5:]) for name, values in spent.items()}
    more = statistics.median(a - b for a, b in zip(spent["learning"][5:], spent["not learning"][5:], strict=True))
    return [
        f"a step: {1e3 * medians['not learning']:.1f} ms of CPU time, {1e3 * medians['learning']:.1f} ms learning "
        f"(median of {pairs}; median difference {1e3 * more:.1f} ms, {100 * more / medians['not learning']:.1f} %)"
    ]


def residual_blocks(flow: nn.Module) -> list[ResidualBlock]:
    """All of them, in order."""
    return [one for one in flow.modules() if isinstance(one, ResidualBlock)]


def probe_table(flow: Flow, data: Tensor) -> list[str]:
    """Variance of value and of the gradient in the block's parameters, at one row, over one Rademacher probe's."""
    lines = [
        "",
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
    """What is left of the first term's variance after deflation of the best directions, or minus E J."""
    lines = [
        "",
        "| block | diagonal's share of the symmetric part | k = 1 | 2 | 3 | 4 | J minus its mean |",
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
    """Σ_{i≠j} of the squares, over all matrices: half the variance of a Rademacher probe."""
    return (matrices.square().sum() - matrices.diagonal(dim1=1, dim2=2).square().sum()).item()


if __name__ == "__main__":
    main()
