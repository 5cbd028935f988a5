"""Held-out log p(x) against processor time: our residual flows, the peer's, and zuko's autoregressive flows.

    python -m experiments.benchmarks.quality [--seconds 1200] [--tune 60] [--runs runs/quality]

Needs POWER below $CONTRAFLOW_DATA. Trains the runs that are missing in RUNS, then writes the section `quality` of
docs/generated/benchmarks.md and docs/pictures/quality-*.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from contraflow.data import Dataset, load_dataset
from contraflow.evaluation.figures import logarithmic, png_figure
from contraflow.evaluation.pictures import span
from experiments.benchmarks.learners import RESIDUAL, Learner, Settings, learners
from experiments.benchmarks.pages import BENCHMARKS, PICTURES, fill
from experiments.benchmarks.timing import hardware

#: Data set → batch size.
BATCHES = {"checkerboard": 500, "power": 1000}

#: Learning rates of which short runs select one.
RATES = {"contraflow": (5e-3, 2e-2), "normflows": (5e-3, 2e-2), "zuko NSF": (2e-3, 8e-3), "zuko MAF": (2e-3, 8e-3)}

#: Factor on the time of short runs of residual flows, whose steps are several times as expensive.
LONGER = {"contraflow": 3, "normflows": 3}

#: Number of test rows for scores, and of validation rows for the selection of a setting.
ROWS, TUNING_ROWS = 10_000, 5000

#: Shares of the time after which scores are computed; the table shows some of them.
SHARES = tuple(2 ** (-k / 2) for k in range(10, -1, -1))
SHOWN = (1 / 16, 1 / 4, 1 / 2, 1)

#: Share of the time in which the learning rate increases from zero.
WARM_UP = 0.05


@dataclass
class Curve:
    """The scores of a training run.

    Args:
        seconds, steps, scores: processor time, number of steps and mean log p(x) in nats, at each share of the time.
        final: log p(x) of each row at the end, in nats.
    """

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)


def main() -> None:
    """Train missing runs, and write pictures and section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200.0, help="processor time of a run")
    parser.add_argument("--tune", type=float, default=60.0, help="processor time of a run that selects a setting")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="folder of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = (arguments.tune, arguments.seconds)
    found = {data: compare(data, *budget, arguments.runs) for data in BATCHES}
    for data, runs in found.items():
        picture(data, {model: curve for model, (_, curve) in runs.items()})
    fill(BENCHMARKS, "quality", "\n\n".join([about(*budget), *(table(*one) for one in found.items())]))


#: Model → description of its setting and learning rate, and its run.
Runs = Mapping[str, tuple[str, Curve]]


def compare(name: str, tune: float, seconds: float, folder: Path) -> Runs:
    """Train all models, each with the setting and the learning rate that are best in short runs."""
    contest = Contest(name, load_dataset(name), folder)
    found = {}
    for model, settings in contest.settings.items():
        short = tune * LONGER.get(model, 1)
        tried = {
            (setting, rate): statistics.mean(contest.run(model, setting, rate, short, tuning=True).final)
            for setting in settings
            for rate in RATES[model]
        }
        setting, rate = max(tried, key=lambda one: tried[one])
        curve = contest.run(model, setting, rate, seconds)
        found[model] = (f"{setting}, {rate:g}", curve)
        print(f"{name}, {model}, {setting}, {rate:g}: {curve.scores[-1]:.3f} nats", flush=True)
    return found


@dataclass(frozen=True)
class Contest:
    """Runs on one data set, stored in a folder."""

    name: str
    data: Dataset
    folder: Path

    @property
    def settings(self) -> Mapping[str, Settings]:
        """The settings of all models."""
        return learners(*self.data.event_shape)

    def run(self, model: str, setting: str, rate: float, seconds: float, tuning: bool = False) -> Curve:
        """A run scored on validation rows at its end (tuning), or on test rows at all shares of the time."""
        path = self.folder / f"{self.name} {model} {setting} {rate:g} {seconds:g}.json".replace(" ", "-")
        held_out, shares = (self.data.validation[:TUNING_ROWS], (1,)) if tuning else (self.data.test[:ROWS], SHARES)
        make, batch = self.settings[model][setting], BATCHES[self.name]
        return kept(path, lambda: train(make, self.data.train, batch, rate, seconds, held_out, shares))


def kept(path: Path, measure: Callable[[], Curve]) -> Curve:
    """The run stored at `path`, which is measured if the file is missing."""
    if not path.is_file():
        curve = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(curve)))
    return Curve(**json.loads(path.read_text()))


def train(
    make: Callable[[], Learner],
    data: Tensor,
    batch: int,
    rate: float,
    seconds: float,
    held_out: Tensor,
    shares: Sequence[float],
) -> Curve:
    """Train by Adam for a given processor time, without the time of scoring."""
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    learner = make()
    parameters = list(learner.module.parameters())
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99), fused=True)
    curve, used, steps = Curve(), 0.0, 0
    for share in shares:
        learner.module.train()
        while used < share * seconds:
            start = time.process_time()
            optimiser.param_groups[0]["lr"] = rate * schedule(used / seconds)
            x = data[torch.randint(len(data), (batch,), generator=generator)]
            learner.update()
            loss = -learner.log_prob(x).mean() / x.shape[1]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            steps += 1
            used += time.process_time() - start
        curve.final = score(learner, held_out)
        curve.seconds.append(used)
        curve.steps.append(steps)
        curve.scores.append(statistics.mean(curve.final))
    return curve


def schedule(done: float) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine that reaches zero at the end."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def score(learner: Learner, x: Tensor) -> list[float]:
    """Exact log p(x) of each row."""
    learner.update()
    learner.module.eval()
    return torch.cat([learner.exact(rows).detach() for rows in x.split(2500)]).tolist()


def about(tune: float, seconds: float) -> str:
    """Description of the measurement."""
    shapes = ", ".join(f"{blocks} of {len(g)}×{g[0]} in {features}-D" for features, (blocks, g) in RESIDUAL.items())
    rows = ", ".join(f"{batch} rows a step on {name}" for name, batch in BATCHES.items())
    residual = tune * LONGER["contraflow"]
    return (
        f"`python -m experiments.benchmarks.quality --seconds {seconds:g} --tune {tune:g}` on "
        f"{hardware()}.\n\nHeld-out log p(x) in nats against processor time: {seconds:g} s of one thread for each "
        "run, without scoring; one run for each model, seed 0. Our residual flow has 8 blocks of 3×64 with the "
        f"concatenated sine; the peer's has LipSwish and {shapes}, with 5 power iterations for each Lipschitz update. "
        "Both have bound 0.98 and ActNorm. zuko's flows "
        f"have two hidden layers of 128 in each transform. Adam, {rows}, gradients clipped at norm 1, warm-up over "
        f"{WARM_UP:.0%} of the time and a cosine schedule that reaches zero at the end; scores before the end are "
        "therefore not those of a finished run. Of two settings × two learning rates for each model, the best on "
        f"validation rows after {tune:g} s was selected, for residual flows after {residual:g} s. All scores are "
        f"exact, on the first {ROWS:,} test rows; ± is the standard error over these rows, *median row* the median "
        "over them at the end, and *ahead* the mean difference from ours on the same rows. zuko's splines are by "
        "default the identity outside ±5: where data lie outside, as some of POWER do, the mean is far below the "
        "median."
    )


def table(name: str, runs: Runs) -> str:
    """Table of scores at several times, and of the difference from ours at the end."""
    ours = torch.tensor(runs["contraflow"][1].final)
    shown = [min(range(len(SHARES)), key=lambda i: abs(SHARES[i] - share)) for share in SHOWN]
    first = next(iter(runs.values()))[1]
    heads = [f"{first.seconds[i]:.3g} s" for i in shown]
    rows = [
        f"**{name}**{truth(name)}",
        "",
        f"![held-out nats on {name} against processor time](../pictures/quality-{name}.png)",
        "",
        f"| model | setting, learning rate | steps | {' | '.join(heads)} | median row | ahead of ours |",
        f"|---|---|---|{'---|' * (len(heads) + 2)}",
    ]
    for model, (setting, curve) in runs.items():
        final = torch.tensor(curve.final)
        cells = [f"{curve.scores[i]:.3f}" for i in shown]
        cells[-1] += f" ± {standard_error(final):.3f}"
        cells.append(f"{final.median().item():.3f}")
        ahead = final - ours
        difference = "–" if model == "contraflow" else f"{ahead.mean().item():+.3f} ± {standard_error(ahead):.3f}"
        rows.append(f"| {model} | {setting} | {curve.steps[-1]} | {' | '.join(cells)} | {difference} |")
    return "\n".join(rows)


def standard_error(values: Tensor) -> float:
    """The standard error of the mean."""
    return values.std().item() / math.sqrt(len(values))


def truth(name: str) -> str:
    """The score of the true density, if it is known."""
    density = load_dataset(name).density
    return "" if density is None or density.entropy is None else f", true density {-density.entropy:.3f}"


def picture(name: str, curves: Mapping[str, Curve]) -> None:
    """Held-out nats against seconds, on a logarithmic time axis."""
    with png_figure(PICTURES / f"quality-{name}.png", 6, 4, dpi=100) as figure:
        axes = figure.subplots()
        for model, curve in curves.items():
            axes.plot(curve.seconds, curve.scores, marker="o", markersize=3, label=model)
        late = [score for curve in curves.values() for score in curve.scores[len(SHARES) // 3 :]]
        logarithmic(axes, "x", next(iter(curves.values())).seconds[::2])
        axes.set(xlabel="seconds of processor time, one thread", ylabel="held-out log p(x), nats", title=name)
        axes.set_ylim(span(min(late), max(late), 0.1))
        axes.legend()


if __name__ == "__main__":
    main()
