"""What a comparison measures of a finished run: score, cost, and the error of the inverse."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Generator

from contraflow.data import Dataset
from contraflow.errors import InversionError
from contraflow.flow import Flow
from contraflow.runs.build import load_data
from contraflow.runs.recipe import Recipe
from contraflow.runs.run import Outcome
from contraflow.runs.samples import draw_samples

_SAMPLES = 1000
_INVERTED_ROWS = 200


@dataclass(frozen=True)
class RunResult:
    """One run, measured.

    Attributes:
        recipe, architecture, seed: which run.
        value, standard_error, unit, rows: the score on test rows, and its standard error over these rows.
        truth: mean log-density, in nats, of the distribution that the same rows were drawn from, where it is known.
        parameters: number of learned parameters.
        steps: of training.
        seconds_a_step: mean processor time of the steps that were timed before the first seed.
        sampling_seconds: processor time of 1,000 samples; ``None`` where the inverse failed.
        inverse_error: max |x - f⁻¹(f(x))| over test rows after preprocessing; ``None`` where the inverse failed.
        learning_rate: its largest value.
    """

    recipe: str
    architecture: str
    seed: int
    value: float
    standard_error: float | None
    unit: str
    rows: int
    truth: float | None
    parameters: int
    steps: int
    seconds_a_step: float
    sampling_seconds: float | None
    inverse_error: float | None
    learning_rate: float


def measure(recipe: Recipe, name: str, seconds_a_step: float, outcome: Outcome) -> RunResult:
    """Measure the outcome of a recipe that started from the recipe of this name."""
    report, flow = outcome.report.as_dict(), outcome.flow
    data = load_data(recipe.data, recipe.seed)
    generator = Generator(flow.device).manual_seed(recipe.seed)
    return RunResult(
        recipe=name,
        architecture=recipe.architecture.name,
        seed=recipe.seed,
        value=report["value"],
        standard_error=report["standard_error"],
        unit=report["unit"],
        rows=report["rows"],
        truth=_truth(data, report["rows"]),
        parameters=sum(parameter.numel() for parameter in flow.parameters()),
        steps=recipe.training.steps,
        seconds_a_step=seconds_a_step,
        sampling_seconds=_sampling_seconds(flow, recipe.evaluation.batch_size, generator),
        inverse_error=_inverse_error(flow, data, generator),
        learning_rate=recipe.training.learning_rate,
    )


def _truth(data: Dataset, rows: int) -> float | None:
    if data.density is None or data.density.log_prob is None:
        return None
    return data.density.log_prob(data.test[:rows].double()).mean().item()


def _sampling_seconds(flow: Flow, batch_size: int, generator: Generator) -> float | None:
    start = time.process_time()
    try:
        draw_samples(flow, _SAMPLES, batch_size, generator)
    except InversionError:
        return None
    return time.process_time() - start


@torch.no_grad()
def _inverse_error(flow: Flow, data: Dataset, generator: Generator) -> float | None:
    rows, *_ = flow._enter(data.test[:_INVERTED_ROWS].to(flow.device), None)
    x, _ = flow._preprocess(rows, None, generator)
    try:
        error = (x - flow.bijection.inverse(flow.bijection(x))).abs().max().item()
    except InversionError:
        return None
    return error if error < math.inf else None
