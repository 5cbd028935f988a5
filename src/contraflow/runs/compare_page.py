"""Writes the results of a comparison as Markdown, JSON and pictures."""

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
from contraflow.files import write_json, write_text
from contraflow.logdet import Exact
from contraflow.runs.build import load_data, load_run
from contraflow.runs.compare import Failure
from contraflow.runs.compare_plan import Comparison
from contraflow.runs.measurement import RunResult
from contraflow.runs.recipes import RECIPES


@dataclass(frozen=True)
class Summary:
    """The runs of an architecture on a recipe, summarised over its seeds.

    Attributes:
        value: mean score.
        data_error: standard error over the test rows, averaged over the runs; ``None`` with one test row.
        seed_error: standard error of the mean over seeds; ``None`` with one seed.
        below_truth: nats by which the score lies below that of the true density on the same rows; ``None`` where the
            true density is unknown.
        sampling_seconds: mean over the runs; ``None`` where the inverse of a run failed.
        inverse_error: largest of the runs; ``None`` where the inverse of a run failed.
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
    """A summary for each architecture on each recipe, in the order of the results."""
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        groups.setdefault((result.recipe, result.architecture), []).append(result)
    return [_summary(runs) for runs in groups.values()]


def _summary(runs: list[RunResult]) -> Summary:
    first, values = runs[0], [run.value for run in runs]
    data_errors = [run.standard_error for run in runs if run.standard_error is not None]
    gaps = [run.truth - run.value for run in runs if run.truth is not None]
    sampling = [run.sampling_seconds for run in runs if run.sampling_seconds is not None]
    errors = [run.inverse_error for run in runs if run.inverse_error is not None]
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


def write_comparison(
    comparison: Comparison, results: Sequence[RunResult], failures: Sequence[Failure], out: Path
) -> str:
    """Write OUT/comparison.md, comparison.json and the pictures, and return the Markdown.

    Raises:
        OutputError: a file cannot be written.
    """
    summaries = summarise(results)
    parts = [_heading(comparison)]
    for recipe in comparison.recipes:
        rows = [summary for summary in summaries if summary.recipe == recipe]
        failed = [failure for failure in failures if failure.recipe == recipe]
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
        "summaries": [asdict(summary) for summary in summarise(results)],
        "runs": [asdict(result) for result in results],
        "failures": [asdict(failure) for failure in failures],
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
        "Scores are of held-out rows: mean ± standard error over rows ± standard error over seeds. Times are processor "
        "time. The inverse error is max |x - f⁻¹(f(x))| of up to 200 rows after preprocessing, the largest of "
        f"all seeds.\n\n{hardware()}."
    )


def _table(rows: Sequence[Summary], failures: Sequence[Failure], architectures: Sequence[str]) -> str:
    unit = f"{rows[0].unit} ({rows[0].rows} rows)" if rows else "score"
    lines = [
        f"| architecture | {unit} | below the true density | parameters | steps | seconds a step | "
        "seconds per 1,000 samples | inverse error | learning rate | runs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in architectures:
        for row in rows:
            if row.architecture == name:
                lines.append(
                    f"| `{name}` | {row.value:.3f} ± {_number(row.data_error, '.3f')} ± "
                    f"{_number(row.seed_error, '.3f')} | {_number(row.below_truth, '.3f')} | {row.parameters:,} | "
                    f"{row.steps:,} | {row.seconds_a_step:.3g} | {_number(row.sampling_seconds, '.3g')} | "
                    f"{_number(row.inverse_error, '.1e')} | {row.learning_rate:g} | {row.runs} |"
                )
        for failure in failures:
            if failure.architecture == name:
                reason = " ".join(failure.error.split()).replace("|", "\\|")
                lines.append(f"| `{name}`, seed {failure.seed} | failed: {reason} | | | | | | | | |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _pictures(recipe: str, results: Sequence[RunResult], out: Path) -> list[str]:
    """Draw the scores of a recipe, and for 2-D data the density of each architecture; return the names of the files."""
    runs = [result for result in results if result.recipe == recipe]
    scores: dict[str, list[float]] = {}
    for run in runs:
        scores.setdefault(run.architecture, []).append(run.value)
    scores_picture(scores, runs[0].unit, out / f"{recipe}.png", runs[0].truth, recipe)
    data = load_data(RECIPES[recipe]().data, 0)
    if data.event_shape != (2,):
        return [f"{recipe}.png"]
    densities: dict[str, Callable[[Tensor], Tensor]] = {}
    if data.density is not None and data.density.log_prob is not None:
        densities["true density"] = data.density.log_prob
    for run in runs:
        if run.architecture not in densities:
            flow = load_run(out / recipe / run.architecture / f"seed-{run.seed}").flow
            densities[run.architecture] = flow.with_logdet(Exact()).log_prob
    densities_picture(densities, data.test, out / f"{recipe}-densities.png")
    return [f"{recipe}.png", f"{recipe}-densities.png"]


def hardware() -> str:
    """Processor, number of cores and threads, and versions, for the head of a page."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def processor() -> str:
    """The name of the processor, or its architecture where the system gives no name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
