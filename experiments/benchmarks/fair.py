"""All families of flows with the same budget: sections of docs/generated/results.md.

    python -m experiments.benchmarks.fair [plane] [power] [digits] [mnist] [--out runs/fair]

writes the named sections, or all of them. POWER and MNIST need their data below $CONTRAFLOW_DATA. Finished runs in OUT
are used again, and interrupted runs are resumed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from contraflow.runs.compare import Failure, run_comparison
from contraflow.runs.compare_page import Summary, summarise, write_comparison
from contraflow.runs.compare_plan import Budget, Comparison, RateSearch
from contraflow.runs.measurement import RunResult
from experiments.benchmarks.pages import PICTURES, RESULTS, fill
from experiments.benchmarks.timing import hardware

_RATES = RateSearch((0.25, 1.0, 4.0))
_DENSE = ("residual_flow_2d_small", "iresnet", "idensenet", "nice", "real_nvp", "glow")
_AUTOREGRESSIVE = ("made", "maf", "iaf", "naf", "nsf")
_IMAGES = ("iresnet", "idensenet_small", "nice", "real_nvp_small", "glow")
_PLANE = (
    "checkerboard",
    "eight_gaussians",
    "two_spirals",
    "rings",
    "circles",
    "moons",
    "pinwheel",
    "swiss_roll",
)


@dataclass(frozen=True)
class Table:
    """A section of the page.

    Args:
        comparison: the recipes, architectures and budget.
        published: architecture → the published value, in the unit of the score.
        remark: text below the table.
    """

    comparison: Comparison
    published: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


_PLANE_REMARK = (
    "With this budget the cost of a step decides: flows with a series or a differential equation take the fewest "
    "steps. With more time the differences are smaller: see the run on checkerboard above, and quality against time "
    "in [benchmarks.md](benchmarks.md)."
)
_POWER = {"real_nvp": "0.17", "glow": "0.17", "ffjord_power": "0.46", "made": "-3.08", "maf": "0.24"}
_POWER_REMARK = (
    "Published: held-out nats after training to convergence, as collected by Grathwohl et al. 2019 (arXiv:1810.01367), "
    "who also quote TAN 0.48 and DDSF 0.62. `contraflow train power` trains a residual flow for longer (see above). It "
    "seems to be limited by the number of steps: its score is no better on training rows than on test rows, and still "
    "improves at the last validation."
)
_DIGITS_REMARK = (
    "`contraflow train digits` trains `residual_flow_digits` for 1,500 steps (see above). Learning rates above the "
    "largest multiple were not tried."
)
_MNIST_REMARK = (
    "Most flows take too few steps here to show what they can reach: `contraflow train mnist` trains "
    "`residual_flow_images` for 2,500 steps (see above). Learning rates above the largest multiple were not tried."
)

TABLES = {
    "plane": Table(
        Comparison(
            _PLANE,
            (*_DENSE, *_AUTOREGRESSIVE, "linear_plu", "planar", "sylvester", "ffjord_2d"),
            Budget(seconds=20),
            limit=5000,
            rates=replace(_RATES, trial=0.5, recipe="checkerboard"),
        ),
        remark=_PLANE_REMARK,
    ),
    "power": Table(
        Comparison(
            ("power",),
            (
                "residual_flow_table",
                *_DENSE,
                *_AUTOREGRESSIVE,
                "linear_plu",
                "planar",
                "sylvester",
                "ffjord",
                "ffjord_power",
            ),
            Budget(seconds=100),
            limit=10_000,
            rates=_RATES,
        ),
        _POWER,
        _POWER_REMARK,
    ),
    "digits": Table(
        Comparison(
            ("digits",),
            ("residual_flow_digits", *_IMAGES, "ffjord_small"),
            Budget(seconds=90),
            seeds=3,
            rates=replace(_RATES, trial=1.0),
        ),
        remark=_DIGITS_REMARK,
    ),
    "mnist": Table(
        Comparison(
            ("mnist",),
            ("residual_flow_images", *_IMAGES, "ffjord_small"),
            Budget(seconds=150),
            limit=1000,
            validation=200,
            rates=replace(_RATES, trial=1.0),
        ),
        remark=_MNIST_REMARK,
    ),
}


def main() -> None:
    """Train missing runs, and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--out", type=Path, default=Path("runs/fair"), help="folder of the runs")
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    torch.set_num_threads(1)
    for name in arguments.tables or TABLES:
        table, out = TABLES[name], arguments.out / name
        results, failures = run_comparison(table.comparison, out)
        write_comparison(table.comparison, results, failures, out)
        fill(RESULTS, f"fair {name}", section(name, table, results, failures, out))


def section(name: str, table: Table, results: Sequence[RunResult], failures: Sequence[Failure], out: Path) -> str:
    """Command, table and pictures."""
    plan, summaries = table.comparison, summarise(results)
    alone = len(plan.recipes) == 1
    rows = single(summaries, table.published) if alone else matrix(plan, summaries)
    missing = "\n".join(
        f"- `{one.architecture}` on {one.recipe}, seed {one.seed}, failed: {' '.join(one.error.split())}"
        for one in failures
    )
    parts = (command(plan), rows, outliers(results), table.remark, missing, pictures(name, plan, out))
    return "\n\n".join(part for part in parts if part)


def command(plan: Comparison) -> str:
    """The command that makes the same runs, and their budget."""
    assert plan.budget.seconds is not None
    limit = f" --limit {plan.limit}" if plan.limit is not None else ""
    validation = f" --validation {plan.validation}" if plan.validation is not None else ""
    search = plan.rates
    rates = f" --rates {','.join(f'{one:g}' for one in search.multiples)} --trial {search.trial:g}"
    rates += f" --rates-on {search.recipe}" if search.recipe is not None else ""
    return (
        f"```bash\ncontraflow compare {','.join(plan.recipes)} --seconds {plan.budget.seconds:g} --seeds "
        f"{plan.seeds}{limit}{validation}{rates} \\\n    --architectures "
        f"{','.join(plan.architectures)}\n```\n\n{plan.budget.seconds:g} s of processor time of one thread for the "
        f"training steps of a run, {plan.seeds} seeds; {hardware()}, {os.cpu_count()} cores. All architectures have "
        f"their default size, or that of the recipe. Learning rate: {search}, with a cosine schedule over the budget. "
        "Scores use the averaged weights that were best in ten validations."
    )


def outliers(results: Sequence[RunResult]) -> str:
    """The runs whose mean depends on a few rows."""
    return "\n".join(
        f"- `{one.architecture}` on {one.recipe.replace('_', ' ')}, seed {one.seed}: {one.value:.3f} with a standard "
        f"error of {one.standard_error:.3f} over the rows: a few rows dominate the mean."
        for one in results
        if (one.standard_error or 0.0) > 1
    )


def single(summaries: Sequence[Summary], published: Mapping[str, str]) -> str:
    """The table of one recipe: one row for each architecture, the best first."""
    unit = summaries[0].unit
    best_first = sorted(summaries, key=lambda one: one.value, reverse=unit == "nats")
    columns = [f"held-out {unit}", *(["published"] if published else []), "parameters"]
    columns += ["learning rate", "steps", "s a step"]
    columns += ["s per 1,000 samples", "inverse error"]
    lines = ["| architecture | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for one in best_first:
        cells = [f"`{one.architecture}`", score(one)]
        cells += [published.get(one.architecture, "–")] if published else []
        cells += [f"{one.parameters:,}", f"{one.learning_rate:g}", f"{one.steps:,}", f"{one.seconds_a_step:.3g}"]
        cells += [number(one.sampling_seconds, ".3g"), number(one.inverse_error, ".0e")]
        lines.append("| " + " | ".join(cells) + " |")
    rows = f"{summaries[0].rows:,} test rows. The first error is over rows, the second over seeds."
    return "\n".join(lines) + "\n\n" + rows


def matrix(plan: Comparison, summaries: Sequence[Summary]) -> str:
    """The table of several recipes: one row for each architecture, one column for each recipe, and mean costs."""
    summary_of = {(one.recipe, one.architecture): one for one in summaries}
    lines = ["| architecture | " + " | ".join(name.replace("_", " ") for name in plan.recipes), "|---"]
    lines[0] += " | parameters | s a step | s per 1,000 samples | inverse error |"
    lines[1] *= len(plan.recipes) + 5
    lines[1] += "|"
    truths = [truth(summaries, recipe) for recipe in plan.recipes]
    lines.append("| true density | " + " | ".join(number(one, ".3f") for one in truths) + " | | | | |")
    for name in plan.architectures:
        rows = [summary_of.get((recipe, name)) for recipe in plan.recipes]
        there = [one for one in rows if one is not None]
        if not there:
            continue
        cells = [f"{one.value:.3f} ± {number(one.seed_error, '.3f')}" if one else "failed" for one in rows]
        sampling = [one.sampling_seconds for one in there]
        errors = [one.inverse_error for one in there]
        cells += [f"{there[0].parameters:,}", f"{sum(one.seconds_a_step for one in there) / len(there):.3g}"]
        cells += ["–" if None in sampling else f"{sum(sampling) / len(sampling):.3g}"]  # type: ignore[arg-type]
        cells += ["–" if None in errors else f"{max(errors):.0e}"]  # type: ignore[type-var]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    data = max(one.data_error for one in summaries if one.data_error is not None)
    about = (
        f"Held-out nats on {summaries[0].rows:,} rows ± standard error over seeds; the standard error over rows is at "
        f"most {data:.3f}. Times per step and for samples are means over the densities; the inverse error is the "
        "largest."
    )
    return "\n".join(lines) + "\n\n" + about


def truth(summaries: Sequence[Summary], recipe: str) -> float | None:
    """The mean log-density of the test rows of a recipe under the true density, averaged over its runs."""
    known = [one.value + one.below_truth for one in summaries if one.recipe == recipe and one.below_truth is not None]
    return sum(known) / len(known) if known else None


def score(one: Summary) -> str:
    """The score with its errors over rows and over seeds."""
    return f"{one.value:.3f} ± {number(one.data_error, '.3f')} ± {number(one.seed_error, '.3f')}"


def number(value: float | None, form: str) -> str:
    """A formatted number, or a dash for ``None``."""
    return "–" if value is None else format(value, form)


def pictures(name: str, plan: Comparison, out: Path) -> str:
    """Markdown of the pictures of the runs, which are copied to the folder of the page."""
    shown = []
    for recipe in plan.recipes:
        source = out / (f"{recipe}-densities.png" if name == "plane" else f"{recipe}.png")
        if source.is_file():
            shrink(source, PICTURES / f"fair-{recipe}.png")
            shown.append(f"![{recipe}](../pictures/fair-{recipe}.png)")
    return "\n\n".join(shown)


def shrink(source: Path, target: Path) -> None:
    """A copy for the page: at most 1,000 pixels wide, in 256 colours."""
    with Image.open(source) as picture:
        picture.thumbnail((1000, 4000))
        picture.convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main()
