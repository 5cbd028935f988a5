"""`contraflow compare`."""

from __future__ import annotations

from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ConfigurationError
from contraflow.runs.compare import run_comparison
from contraflow.runs.compare_page import as_dict, write_comparison
from contraflow.runs.compare_plan import Budget, Comparison, RateSearch


def compare(
    recipes: str,
    architectures: str = "",
    seconds: float | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seeds: int = 2,
    limit: int | None = None,
    validation: int | None = None,
    rates: str = "1",
    trial: float = 0.1,
    rates_on: str | None = None,
    out: Path = Path("comparison"),
    json: bool = False,
) -> None:
    """Train several architectures under one budget, and write a page with their scores, costs and pictures.

    Every run may spend the same processor time (--seconds, --minutes) or the same number of steps (--steps); the
    default is 60 seconds. Finished runs in --out are not trained again, and a run that fails is a row of the table.

    Example: contraflow compare moons,rings --architectures residual_flow_table,maf --minutes 2

    Args:
        recipes: recipes, separated by commas; `contraflow recipes` lists them.
        architectures: architectures, separated by commas; `contraflow architectures` lists them.
        seconds: processor time for the training steps of a run. Twenty steps are timed first to find their number.
        minutes: the same budget in minutes.
        steps: number of training steps of a run, instead of a time.
        seeds: number of runs of each architecture.
        limit: score only this many test rows.
        validation: number of validation rows; each run is validated ten times.
        rates: factors on the learning rate of each architecture, separated by commas. With several, each is tried in
            a short training run, on top of the budget, and the one with the best validation score is taken.
        trial: number of steps of such a trial, as a share of the steps of a run.
        rates_on: the recipe on which learning rates are chosen for all recipes; each recipe has its own by default.
        out: the folder for the runs, comparison.md, comparison.json and the pictures.
        json: print the result as JSON.
    """
    search = RateSearch(_numbers(rates), trial, rates_on)
    budget = _budget(seconds, minutes, steps)
    plan = Comparison(_names(recipes), _names(architectures), budget, seeds, limit, validation, search)
    results, failures = run_comparison(plan, out, ProgressBar.named)
    text = write_comparison(plan, results, failures, out)
    show(text, as_dict(plan, results, failures), json)


def _names(text: str) -> tuple[str, ...]:
    """The names in order, without repetitions."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in _names(text))
    except ValueError:
        raise ConfigurationError(f"rates={text}: expected numbers separated by commas.") from None


def _budget(seconds: float | None, minutes: float | None, steps: int | None) -> Budget:
    budgets = [
        f"{name}={value}"
        for name, value in (("seconds", seconds), ("minutes", minutes), ("steps", steps))
        if value is not None
    ]
    if len(budgets) > 1:
        raise ConfigurationError(f"{', '.join(budgets)}: give only one budget.")
    if steps is not None:
        return Budget(steps=steps)
    if minutes is not None:
        return Budget(seconds=60 * minutes)
    return Budget(seconds=60.0 if seconds is None else seconds)
