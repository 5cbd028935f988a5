"""Likelihood of training, test and other data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from contraflow.data import load_matching
from contraflow.errors import DataError, DomainError, ShapeError
from contraflow.evaluation.figures import colour, svg_figure
from contraflow.evaluation.pictures import span
from contraflow.logdet import EVALUATION, Exact, RussianRoulette
from contraflow.report.page import command, figure, paragraph, table
from contraflow.report.run_data import RunData, Scored

#: Data set → another data set of the same shape to score beside it, if its files are present.
BESIDE = {"mnist": "fashion_mnist", "fashion_mnist": "mnist", "cifar10": "svhn", "svhn": "cifar10"}

_COLOURS = ("data", "model", "other", "held", "quiet")


def likelihood(run: RunData) -> list[str]:
    """The section: a table of scores, and histograms over the rows of each set."""
    sets = {"test": run.test_score}
    if len(run.data.train):
        sets["train"] = run.score("train", run.data.train[: run.rows])
    for name, others in other_data(run).items():
        sets[name] = run.score(name, others)
    return [
        paragraph(
            "log p(x) of the data before preprocessing, whose log-determinant is included. The standard error covers "
            "both the choice of rows and the noise of the estimator, which is independent between rows."
        ),
        score_table(run, sets),
        *repeat_by(run),
        score_histograms(run, sets),
    ]


def other_data(run: RunData) -> dict[str, Tensor]:
    """Name → rows from other distributions: first those similar to the data, last noise."""
    test, generator = run.test, torch.Generator().manual_seed(run.settings.seed)
    others = {}
    if run.images is not None:
        others["test, upside down"] = test.flip(2, 3)
        others |= _another(run)
        others["noise"] = torch.randint(0, run.images.levels, test.shape, generator=generator).to(torch.uint8)
        return others
    if test.shape[1] > 1:
        orders = torch.rand(test.shape, generator=generator).argsort(dim=0)
        others["test, columns shuffled"] = test.gather(0, orders)
    others |= _another(run)
    low, high = test.min(dim=0).values, test.max(dim=0).values
    others["noise"] = low + (high - low) * torch.rand(test.shape, generator=generator, dtype=test.dtype)
    return others


def _another(run: RunData) -> dict[str, Tensor]:
    """The data set that the settings name, or the one in `BESIDE` if its files are present."""
    asked, own = run.settings.other, run.trained.recipe.data.name
    name = asked or BESIDE.get(own)
    if name is None:
        return {}
    try:
        data = load_matching(
            name,
            run.trained.columns,
            root=run.settings.root or run.trained.recipe.data.root,
            seed=run.settings.seed,
            note=run.note,
        )
    except DataError:
        if asked:
            raise
        return {}
    if data.event_shape != run.data.event_shape or data.levels != run.data.levels:
        raise ShapeError(
            f"other={name}: its rows have shape {data.event_shape} and levels {data.levels}, but the run expects shape "
            f"{run.data.event_shape} and levels {run.data.levels}."
        )
    return {name: data.test[: run.rows]}


def score_table(run: RunData, sets: dict[str, Scored]) -> str:
    """One line for each data set."""
    report = run.test_score.report
    nats = report.unit == "nats"
    rows = [
        (
            name,
            f"{scored.report.value:.3f} ± {scored.report.standard_error:.3f}",
            *(() if nats else (f"{scored.scores.log_prob.mean().item():.2f}",)),
            f"{scored.report.rows:,}",
            f"{scored.report.draws}",
        )
        for name, scored in sets.items()
    ]
    rows += _truth(run)
    return table(
        ("data", report.unit, *(() if nats else ("log p(x), nats",)), "rows", "draws"),
        rows,
        "Scores.",
        f"Log-determinants: {report.estimator}. The difference between test and train is the generalisation gap. The "
        "rows of the data sets below these are out of distribution, and should have a lower likelihood.",
    )


def _truth(run: RunData) -> list[tuple[str, ...]]:
    """A line with the mean log-density of the test rows under the true density, if this is known."""
    density = run.data.density
    if density is None or density.log_prob is None:
        return []
    values = density.log_prob(run.test.double())
    error = values.std().item() / math.sqrt(len(values))
    return [("test, true density", f"{values.mean().item():.3f} ± {error:.3f}", f"{len(values):,}", "")]


def repeat_by(run: RunData) -> list[str]:
    """The command that prints the test score; nothing if no option selects the recipe's estimator."""
    recipe = run.trained.recipe
    estimator = recipe.evaluation.estimator
    line = f"contraflow evaluate RUN --draws {recipe.evaluation.draws} --batch-size {recipe.evaluation.batch_size}"
    line += f" --limit {len(run.test)} --seed {run.settings.seed}"
    if (dtype := str(run.trained.flow.dtype).removeprefix("torch.")) != recipe.dtype:
        line += f" --dtype {dtype}"
    if estimator == Exact():
        line += " --exact"
    elif isinstance(estimator, RussianRoulette) and estimator == replace(EVALUATION, exact_terms=estimator.exact_terms):
        line += f" --exact-terms {estimator.exact_terms}"
    else:
        return []
    return [paragraph("The command that computes the test score again:"), command(line)]


def score_histograms(run: RunData, sets: dict[str, Scored]) -> str:
    """Histograms of the scores of the rows of each data set."""
    unit = run.test_score.report.unit
    values = {name: _in_unit(run, scored.scores.log_prob) for name, scored in sets.items()}
    low, high = _frame(values)
    with svg_figure("score-histograms", f"histograms of {unit} for each data set", height=3.1) as picture:
        axes = picture.figure.subplots()
        bins = np.linspace(low, high, 70)
        for (name, scores), paint in zip(values.items(), _COLOURS, strict=False):
            inside = scores[(scores >= low) & (scores <= high)]
            away = "" if len(inside) > len(scores) / 2 else f", outside the frame at {np.median(scores):.3g}"
            weights = np.full(len(inside), 1 / max(len(scores), 1))
            shape = {"alpha": 0.45} if name in ("train", "test") else {"histtype": "step", "linewidth": 1.4}
            axes.hist(inside, bins=bins, weights=weights, color=colour(paint), label=f"{name}{away}", **shape)
        axes.set(xlabel=unit, yticks=[], xlim=(low, high))
        axes.legend(loc="best")
    return figure(
        picture.svg,
        "log p(x) of single rows.",
        "The histograms of train and test should coincide; a test histogram shifted to worse scores indicates "
        "overfitting. Other data that overlap with them cannot be detected as out of distribution by the likelihood "
        f"alone{_caution(run)}.",
    )


def _caution(run: RunData) -> str:
    if run.images is None:
        return ""
    return "; images simpler than the data may even score better, a known property of likelihoods"


def _in_unit(run: RunData, log_prob: Tensor) -> np.ndarray:
    finite = log_prob[log_prob.isfinite()]
    nats_per_unit = -run.trained.flow.dimensions * math.log(2) if run.images is not None else 1.0
    return (finite / nats_per_unit).numpy()


def _frame(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """The range to show: all scores, but not beyond six times the width of the test scores from their median."""
    test = values["test"]
    if not len(test):
        raise DomainError("no test row has a finite log p(x), so there is no likelihood to report.")
    first, middle, last = np.quantile(test, [0.02, 0.5, 0.98])
    reach = 6 * max(last - first, 1e-6 * max(abs(middle), 1e-6))
    everything = np.concatenate(list(values.values()))
    low, high = max(float(everything.min()), middle - reach), min(float(everything.max()), middle + reach)
    return span(low, high)
