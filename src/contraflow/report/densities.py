"""Likelihood of train, test and other data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from contraflow.data import load_matching
from contraflow.errors import DataError, DomainError, ShapeError
from contraflow.evaluation.pictures import span
from contraflow.logdet import EVALUATION, Exact, RussianRoulette
from contraflow.report.drawing import colour, drawing
from contraflow.report.page import command, figure, paragraph, table
from contraflow.report.run_data import Scored, Subject

#: Data sets of one shape: what each is set beside, where its files are present.
BESIDE = {"mnist": "fashion_mnist", "fashion_mnist": "mnist", "cifar10": "svhn", "svhn": "cifar10"}

_COLOURS = ("data", "model", "other", "held", "quiet")


def likelihood(subject: Subject) -> list[str]:
    """The section: a table of scores, and how the rows of each set are spread."""
    sets = {"test": subject.test_score}
    if len(subject.data.train):
        sets["train"] = subject.score("train", subject.data.train[: subject.rows])
    for name, others in other_data(subject).items():
        sets[name] = subject.score(name, others)
    return [
        paragraph(
            "log p(x) of the data as given, preprocessing included. The error covers both the choice of rows and the "
            "estimator's own noise, since every row has its own."
        ),
        score_table(subject, sets),
        *repeat_by(subject),
        score_histograms(subject, sets),
    ]


def other_data(subject: Subject) -> dict[str, Tensor]:
    """Rows that the flow was not trained on, the first ones close to its data, the last ones not."""
    test, generator = subject.test, torch.Generator().manual_seed(subject.settings.seed)
    found = {}
    if subject.images is not None:
        found["test, upside down"] = test.flip(2, 3)
        found |= _another(subject)
        found["noise"] = torch.randint(0, subject.images.levels, test.shape, generator=generator).to(torch.uint8)
        return found
    if test.shape[1] > 1:
        orders = torch.rand(test.shape, generator=generator).argsort(dim=0)
        found["test, columns shuffled"] = test.gather(0, orders)
    found |= _another(subject)
    low, high = test.min(dim=0).values, test.max(dim=0).values
    found["noise"] = low + (high - low) * torch.rand(test.shape, generator=generator, dtype=test.dtype)
    return found


def _another(subject: Subject) -> dict[str, Tensor]:
    """The data set asked for, or the usual one beside the run's where it is present."""
    asked, own = subject.settings.other, subject.trained.recipe.data.name
    name = asked or BESIDE.get(own)
    if name is None:
        return {}
    try:
        data = load_matching(
            name,
            subject.trained.columns,
            root=subject.settings.root or subject.trained.recipe.data.root,
            seed=subject.settings.seed,
            note=subject.note,
        )
    except DataError:
        if asked:
            raise
        return {}
    if data.event_shape != subject.data.event_shape or data.levels != subject.data.levels:
        raise ShapeError(
            f"other={name}: rows of shape {data.event_shape} with levels {data.levels}, where the run takes "
            f"{subject.data.event_shape} with {subject.data.levels}."
        )
    return {name: data.test[: subject.rows]}


def score_table(subject: Subject, sets: dict[str, Scored]) -> str:
    """One line for each set of rows."""
    report = subject.test_score.report
    nats = report.unit == "nats"
    rows = [
        (
            name,
            f"{one.report.value:.3f} ± {one.report.standard_error:.3f}",
            *(() if nats else (f"{one.scores.log_prob.mean().item():.2f}",)),
            f"{one.report.rows:,}",
            f"{one.report.draws}",
        )
        for name, one in sets.items()
    ]
    rows += _truth(subject)
    return table(
        ("rows", report.unit, *(() if nats else ("log p(x), nats",)), "how many", "draws"),
        rows,
        "Scores.",
        f"Log-determinants: {report.estimator}. Test against train is the generalisation gap. The rows after those are "
        "not of the data: each step away from it ought to cost likelihood.",
    )


def _truth(subject: Subject) -> list[tuple[str, ...]]:
    """Mean log-density of the test rows under the distribution they were drawn from, where it is known."""
    density = subject.data.density
    if density is None or density.log_prob is None:
        return []
    values = density.log_prob(subject.test.double())
    error = values.std().item() / math.sqrt(len(values))
    return [("test, by the true density", f"{values.mean().item():.3f} ± {error:.3f}", f"{len(values):,}", "")]


def repeat_by(subject: Subject) -> list[str]:
    """The command that prints the test score; none where its options cannot say the recipe's estimator."""
    recipe = subject.trained.recipe
    estimator = recipe.evaluation.estimator
    words = f"contraflow evaluate RUN --draws {recipe.evaluation.draws} --batch-size {recipe.evaluation.batch_size}"
    words += f" --limit {len(subject.test)} --seed {subject.settings.seed}"
    if (dtype := str(subject.trained.flow.dtype).removeprefix("torch.")) != recipe.dtype:
        words += f" --dtype {dtype}"
    if estimator == Exact():
        words += " --exact"
    elif isinstance(estimator, RussianRoulette) and estimator == replace(EVALUATION, exact_terms=estimator.exact_terms):
        words += f" --exact-terms {estimator.exact_terms}"
    else:
        return []
    return [paragraph("The score of the test rows, printed again:"), command(words)]


def score_histograms(subject: Subject, sets: dict[str, Scored]) -> str:
    """How the rows of each set are spread."""
    unit = subject.test_score.report.unit
    values = {name: _in_unit(subject, one.scores.log_prob) for name, one in sets.items()}
    low, high = _frame(values)
    with drawing("score-histograms", f"histograms of {unit} of each set of rows", height=3.1) as picture:
        axes = picture.figure.subplots()
        bins = np.linspace(low, high, 70)
        for (name, found), paint in zip(values.items(), _COLOURS, strict=False):
            inside = found[(found >= low) & (found <= high)]
            away = "" if len(inside) > len(found) / 2 else f", beyond the frame at {np.median(found):.3g}"
            weights = np.full(len(inside), 1 / max(len(found), 1))
            shape = {"alpha": 0.45} if name in ("train", "test") else {"histtype": "step", "linewidth": 1.4}
            axes.hist(inside, bins=bins, weights=weights, color=colour(paint), label=f"{name}{away}", **shape)
        axes.set(xlabel=unit, yticks=[], xlim=(low, high))
        axes.legend(loc="best")
    return figure(
        picture.svg,
        "log p(x), row by row.",
        "Train and test ought to lie on top of each other; a test histogram shifted to the worse side is overfitting. "
        f"Other data that overlap with them are rows that this density alone cannot tell apart{_caution(subject)}.",
    )


def _caution(subject: Subject) -> str:
    if subject.images is None:
        return ""
    return ": images simpler than the data may even score better, a known property of likelihoods"


def _in_unit(subject: Subject, log_prob: Tensor) -> np.ndarray:
    finite = log_prob[log_prob.isfinite()]
    per_bit = -subject.trained.flow.dimensions * math.log(2) if subject.images is not None else 1.0
    return (finite / per_bit).numpy()


def _frame(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """The range to show: all sets, but not farther than six spreads of the test rows from them."""
    test = values["test"]
    if not len(test):
        raise DomainError("no test row has a finite log p(x): there is no likelihood to report.")
    first, middle, last = np.quantile(test, [0.02, 0.5, 0.98])
    reach = 6 * max(last - first, 1e-6 * max(abs(middle), 1e-6))
    everything = np.concatenate(list(values.values()))
    low, high = max(float(everything.min()), middle - reach), min(float(everything.max()), middle + reach)
    return span(low, high)
