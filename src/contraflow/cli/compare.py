"""`contraflow compare`."""

from __future__ import annotations

from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ConfigurationError
from contraflow.runs.compare import Budget, Comparison, RateSearch, run_comparison
from contraflow.runs.compare_page import as_dict, write_comparison


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
    """Train several architectures under one budget, and set their scores, costs and pictures side by side.

    What --out has already is not trained again, and a run that fails is a row of the table. Without a budget, a run
    has 60 seconds.

    Args:
        recipes: names of `contraflow recipes`, with commas between.
        architectures: names of `contraflow architectures`, with commas between.
        seconds: processor time of the training steps of a run; 20 steps, or as many as it pays for, are timed
            first to find their number.
        minutes: the same in minutes.
        steps: a number of steps instead.
        seeds: runs of each architecture.
        limit: score only so many test rows.
        validation: validate, ten times in a run, on only so many rows.
        rates: multiples of each architecture's learning rate, with commas between; of several, the best on validation
            rows in short trials is taken, and that search comes on top of the budget.
        trial: steps of such a trial, as a share of those of a run.
        rates_on: the recipe whose trials choose for all recipes; each has its own when not given.
        out: folder of the runs, comparison.md, comparison.json and the pictures.
        json: print JSON.
    """
    search = RateSearch(_numbers(rates), trial, rates_on)
    budget = _budget(seconds, minutes, steps)
    plan = Comparison(_names(recipes), _names(architectures), budget, seeds, limit, validation, search)
    results, failures = run_comparison(plan, out, ProgressBar.named)
    text = write_comparison(plan, results, failures, out)
    show(text, as_dict(plan, results, failures), json)


def _names(text: str) -> tuple[str, ...]:
    """Each once, in the order given."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in _names(text))
    except ValueError:
        raise ConfigurationError(f"rates={text}: expected numbers with commas between.") from None


def _budget(seconds: float | None, minutes: float | None, steps: int | None) -> Budget:
    given = [
        f"{name}={value}"
        for name, value in (("seconds", seconds), ("minutes", minutes), ("steps", steps))
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigurationError(f"{', '.join(given)}: give one budget.")
    if steps is not None:
        return Budget(steps=steps)
    if minutes is not None:
        return Budget(seconds=60 * minutes)
    return Budget(seconds=60.0 if seconds is None else seconds)
