"""What a comparison found, as Markdown, JSON and pictures."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contraflow.evaluation import densities_picture, scores_picture
from contraflow.logdet import Exact
from contraflow.runs.compare import Comparison, Failure, RunResult
from contraflow.runs.build import load_data, load_run
from contraflow.runs.recipes import RECIPES
from contraflow.files import write_json, write_text


@dataclass(frozen=True)
class Summary:
    """An architecture on a recipe, over its seeds.

    Attributes:
        value: mean score.
        data_error: standard error over the test rows, mean of the runs; ``None`` where a run has one row.
        seed_error: standard error of the mean over seeds; ``None`` with one seed.
        below_truth: nats by which the score lies below the true density's on the same rows; ``None`` where unknown.
        sampling_seconds, inverse_error: the mean, and the largest; ``None`` where a run's inverse failed.
        steps, seconds_a_step, learning_rate, parameters, unit, rows: as in `RunResult`.
        runs: number of seeds.
    """

    recipe: str
    architecture: str
    value: float
    data_error: float | None
    seed_error: float | None
    below_truth: float | None
    unit: str
    rows: int
    parameters: int
    steps: int
    seconds_a_step: float
    sampling_seconds: float | None
    inverse_error: float | None
    learning_rate: float
    runs: int


def summarise(results: Sequence[RunResult]) -> list[Summary]:
    """The runs of each architecture on each recipe, in the order in which they came."""
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for one in results:
        groups.setdefault((one.recipe, one.architecture), []).append(one)
    return [_summary(runs) for runs in groups.values()]


def _summary(runs: list[RunResult]) -> Summary:
    first, values = runs[0], [one.value for one in runs]
    data_errors = [one.standard_error for one in runs if one.standard_error is not None]
    gaps = [one.truth - one.value for one in runs if one.truth is not None]
    sampling = [one.sampling_seconds for one in runs if one.sampling_seconds is not None]
    errors = [one.inverse_error for one in runs if one.inverse_error is not None]
    count = len(runs)
    return Summary(
        recipe=first.recipe,
        architecture=first.architecture,
        value=statistics.mean(values),
        data_error=statistics.mean(data_errors) if len(data_errors) == count else None,
        seed_error=statistics.stdev(values) / count**0.5 if count > 1 else None,
        below_truth=statistics.mean(gaps) if gaps else None,
        unit=first.unit,
        rows=first.rows,
        parameters=first.parameters,
        steps=first.steps,
        seconds_a_step=first.seconds_a_step,
        sampling_seconds=statistics.mean(sampling) if len(sampling) == count else None,
        inverse_error=max(errors) if len(errors) == count else None,
        learning_rate=first.learning_rate,
        runs=count,
    )


def write_comparison(comparison: Comparison, results: Sequence[RunResult], failures: Sequence[Failure], out: Path) -> str:
    """Write OUT/comparison.md, comparison.json and the pictures; the Markdown is returned.

    Raises:
        OutputError: something could not be written.
    """
    summaries = summarise(results)
    parts = [_heading(comparison)]
    for recipe in comparison.recipes:
        rows = [one for one in summaries if one.recipe == recipe]
        failed = [one for one in failures if one.recipe == recipe]
        parts.append("\n".join([f"## {recipe}", "", _table(rows, failed, comparison.architectures)]))
        if rows:
            parts += [f"![{recipe}]({name})" for name in _pictures(recipe, results, out)]
    text = "\n\n".join(parts) + "\n"
    write_text(out / "comparison.md", text)
    write_json(out / "comparison.json", as_dict(comparison, results, failures))
    return text


def as_dict(comparison: Comparison, results: Sequence[RunResult], failures: Sequence[Failure]) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "comparison": asdict(comparison),
        "hardware": hardware(),
        "summaries": [asdict(one) for one in summarise(results)],
        "runs": [asdict(one) for one in results],
        "failures": [asdict(one) for one in failures],
    }


def _heading(comparison: Comparison) -> str:
    chosen = f", {comparison.rates}," if len(comparison.rates.multiples) > 1 else ""
    timed = ", at the mean of 20 steps timed beforehand" if comparison.budget.seconds is not None else ""
    return (
        f"# {', '.join(comparison.recipes)}: {len(comparison.architectures)} architectures under one budget\n\n"
        f"Budget of a run: {comparison.budget}, spent on training steps{timed}; validation and scoring come on top. "
        f"The learning rate of an architecture{chosen} falls along a cosine that ends with the budget. The averaged "
        f"weights that scored best in about ten validations are kept. Seeds 0 to {comparison.seeds - 1} draw data "
        "split, weights, batches and noise.\n\n"
        "Scores are of held-out rows: mean ± standard error over rows ± standard error over seeds. Times are of the "
        "processor. The inverse error is max |x - f⁻¹(f(x))| of up to 200 rows after preprocessing, the largest of "
        f"all seeds.\n\n{hardware()}."
    )


def _table(rows: Sequence[Summary], failures: Sequence[Failure], architectures: Sequence[str]) -> str:
    unit = f"{rows[0].unit} ({rows[0].rows} rows)" if rows else "score"
    lines = [
        f"| architecture | {unit} | below the true density | parameters | steps | s a step | s per 1,000 samples | "
        "inverse error | learning rate | runs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in architectures:
        for one in rows:
            if one.architecture == name:
                lines.append(
                    f"| `{name}` | {one.value:.3f} ± {_number(one.data_error, '.3f')} ± "
                    f"{_number(one.seed_error, '.3f')} | {_number(one.below_truth, '.3f')} | {one.parameters:,} | "
                    f"{one.steps:,} | {one.seconds_a_step:.3g} | {_number(one.sampling_seconds, '.3g')} | "
                    f"{_number(one.inverse_error, '.1e')} | {one.learning_rate:g} | {one.runs} |"
                )
        for failed in failures:
            if failed.architecture == name:
                reason = " ".join(failed.error.split()).replace("|", "\\|")
                lines.append(f"| `{name}`, seed {failed.seed} | failed: {reason} | | | | | | | | |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _pictures(recipe: str, results: Sequence[RunResult], out: Path) -> list[str]:
    """Names of the pictures of a recipe: the scores, and on the plane the densities of every first finished seed."""
    runs = [one for one in results if one.recipe == recipe]
    scores: dict[str, list[float]] = {}
    for one in runs:
        scores.setdefault(one.architecture, []).append(one.value)
    scores_picture(scores, runs[0].unit, out / f"{recipe}.png", runs[0].truth, recipe)
    data = load_data(RECIPES[recipe]().data, 0)
    if data.event_shape != (2,):
        return [f"{recipe}.png"]
    densities: dict[str, Callable[[Tensor], Tensor]] = {}
    if data.density is not None and data.density.log_prob is not None:
        densities["true density"] = data.density.log_prob
    for one in runs:
        if one.architecture not in densities:
            flow = load_run(out / recipe / one.architecture / f"seed-{one.seed}").flow
            densities[one.architecture] = flow.with_logdet(Exact()).log_prob
    densities_picture(densities, data.test, out / f"{recipe}-densities.png")
    return [f"{recipe}.png", f"{recipe}-densities.png"]


def hardware() -> str:
    """Processor, cores, threads and versions, for the head of a page."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
