"""Train missing runs of docs/generated/results.md, and write their sections of the page.

    python -m experiments.benchmarks.results [digits] [mnist] [checkerboard] [power] --runs runs

All recipes if none is named. MNIST and POWER need their data below $CONTRAFLOW_DATA. Finished runs are used again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator

from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import Chain
from contraflow.evaluation import evaluate_likelihood, gaussian_baseline
from contraflow.flow import Flow
from contraflow.runs import RECIPES, Recipe, Run, TrainingLog, load_run
from contraflow.runs.build import load_data, make_preprocessing
from experiments.benchmarks.pages import ARCHITECTURES_PAGE, PICTURES, README, RESULTS, fill
from experiments.benchmarks.runs import trained
from experiments.benchmarks.timing import hardware

#: Recipe → seeds to run.
RUNS: dict[str, Sequence[int]] = {"digits": (0, 1, 2), "mnist": (0,), "checkerboard": (0,), "power": (0,)}

_TRAINING_ROWS = 10_000


def main() -> None:
    """Train missing runs, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--remark", default="", help="a sentence about how the runs were made")
    arguments = parser.parse_args()
    if unknown := set(arguments.recipes) - set(RUNS):
        parser.error(f"no run of {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    for name in arguments.recipes or RUNS:
        folders = [trained(arguments.runs / f"{name}-{seed}") for seed in RUNS[name]]
        fill(RESULTS, f"run {name}", section(name, folders, RUNS[name], arguments.remark))
        if name == "digits":
            fill(README, "digits", headline(folders))
    fill(ARCHITECTURES_PAGE, "architectures", architecture_table())


def section(name: str, folders: list[Path], seeds: Sequence[int], remark: str) -> str:
    """The section of a recipe: command, table, picture."""
    reports = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    shutil.copyfile(folders[0] / "samples.png", PICTURES / f"{name}.png")
    run = load_run(folders[0])
    parameters = sum(one.numel() for one in run.flow.parameters())
    lines = [
        f"`contraflow train {name} --seed SEED --out RUN`: {summary(name)}",
        "",
        f"{hardware()}. {remark}".strip(),
        "",
    ]
    lines += [
        "| seed | test score | rows | steps | minutes of training | seconds per step |",
        "|---|---|---|---|---|---|",
    ]
    for seed, folder, report in zip(seeds, folders, reports, strict=True):
        minutes, step, steps = timing(folder)
        score = f"{report['value']:.3f} ± {report['standard_error']:.3f} {report['unit']}"
        lines.append(f"| {seed} | {score} | {report['rows']} | {steps} | {minutes:.0f} | {step:.2f} |")
    if len(reports) > 1:
        values = [report["value"] for report in reports]
        lines.append(f"\nOver seeds: {statistics.mean(values):.3f}, standard deviation {statistics.stdev(values):.3f}.")
    lines += ["", f"{parameters:,} parameters; {reports[0]['estimator']}, {reports[0]['draws']} draw(s) a row."]
    lines += [course(folders[0]), fit(run)]
    lines.append(baseline(run.recipe, reports[0]["rows"]))
    lines.append(f"`contraflow certify RUN`: {str(run.flow.certify()).splitlines()[-1]}.")
    lines += ["", f"![{name}](../pictures/{name}.png)"]
    return "\n".join(lines)


def summary(name: str) -> str:
    """First line of the recipe's docstring."""
    make = RECIPES[name]
    return (getattr(make, "func", make).__doc__ or "").split("\n", 1)[0]


def timing(folder: Path) -> tuple[float, float, int]:
    """Minutes from the first to the last line of the log, median seconds per step, number of steps."""
    lines = TrainingLog(folder).records()
    seconds = statistics.median(line["seconds"] for line in lines)
    return (lines[-1]["time"] - lines[0]["time"]) / 60, seconds, lines[-1]["step"]


def course(folder: Path) -> str:
    """Validation scores during training, with the averaged weights."""
    lines = TrainingLog(folder).records()
    names = ("validation nats", "validation bits_per_dim")
    scores = {line["step"]: line[name] for line in lines for name in names if name in line}
    shown = list(scores)[:: -max(1, len(scores) // 4)][::-1]
    return "On validation rows: " + ", ".join(f"{scores[step]:.3f} after {step:,} steps" for step in shown) + "."


def fit(run: Run) -> str:
    """The score on training rows; one far better than the test score indicates overfitting."""
    settings = run.recipe.evaluation
    report = evaluate_likelihood(
        run.flow,
        load_data(run.recipe.data, run.recipe.seed).require_train().train[:_TRAINING_ROWS],
        estimator=settings.estimator,
        draws=settings.draws,
        batch_size=settings.batch_size,
        generator=Generator().manual_seed(run.recipe.seed),
    )
    return f"On {report.rows:,} training rows: {report.value:.3f} ± {report.standard_error:.3f}."


def baseline(recipe: Recipe, rows: int) -> str:
    """The scores of a Gaussian on the same data, and of the true density if it is known."""
    data = load_data(recipe.data, recipe.seed)
    preprocessing = make_preprocessing(recipe, data) or Chain([])
    flow = Flow(data.event_shape, Chain([]), preprocessing=preprocessing)
    generator = Generator().manual_seed(0)
    report = gaussian_baseline(data.train, data.test[:rows], flow.preprocessing, generator=generator)
    text = (
        f"A full-covariance Gaussian on the same preprocessed data: {report.value:.3f} ± {report.standard_error:.3f}."
    )
    if data.density is not None and data.density.log_prob is not None:
        truth = data.density.log_prob(data.test[:rows].double())
        error = truth.std().item() / math.sqrt(len(truth))
        text += f" The true density: {truth.mean().item():.3f} ± {error:.3f}."
    return text


def headline(folders: list[Path]) -> str:
    """The README's line on digits."""
    reports = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    values = [report["value"] for report in reports]
    minutes = max(timing(folder)[0] for folder in folders)
    return (
        f"**{values[0]:.3f} ± {reports[0]['standard_error']:.3f} bits/dim** on {reports[0]['rows']} test images; "
        f"{statistics.mean(values):.3f} over {len(values)} seeds, standard deviation {statistics.stdev(values):.3f}; "
        f"at most {minutes:.1f} minutes of training each ({hardware()}; `python -m experiments.benchmarks.results`)."
    )


def architecture_table() -> str:
    """The table of docs/architectures.md."""
    rows = ["| architecture | parameters | data | what |", "|---|---|---|---|"]
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            count = sum(one.numel() for one in architecture().parameters())
        shape = "×".join(str(size) for size in architecture.event_shape)
        rows.append(f"| `{name}` | {count:,} | {shape} | {architecture.about} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
