"""Many architectures on some recipes under one budget, every run measured alike.

OUT/RECIPE/ARCHITECTURE/seed-N is a run like any other, with result.json beside its checkpoints; pace.json beside the
seeds has the number of steps, rate.json the learning rate where one was chosen. What is there already is not trained
again.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Generator

from contraflow.architectures import ARCHITECTURES
from contraflow.data import Dataset
from contraflow.preprocessing import ImagePreprocessing
from contraflow.errors import ConfigurationError, ContraflowError, InversionError, OutputError, unknown_name
from contraflow.flow import Flow
from contraflow.runs.build import build_flow, load_data, make_preprocessing, training_rows
from contraflow.runs.recipes import RECIPES, with_architecture
from contraflow.runs.recipe import Recipe
from contraflow.runs.run import Outcome, Silent, Watcher, best_validation, draw_samples, run_recipe
from contraflow.files import write_json
from contraflow.training import TrainingState, train

_UNTIMED_STEPS, _TIMED_STEPS = 3, 20
_SAMPLES = 1000
_INVERTED_ROWS = 200

#: Makes who looks on, from the name of a run.
Watch = Callable[[str], AbstractContextManager[Watcher]]


@dataclass(frozen=True)
class Budget:
    """What the training steps of every run may cost.

    Args:
        seconds: of processor time; `_TIMED_STEPS` steps, or as many as it pays for, are timed first, and their mean
            gives the number of steps.
        steps: a number of steps instead.

    Raises:
        ConfigurationError: not exactly one of the two, or not positive.

    >>> print(Budget(seconds=60))
    60 seconds of processor time
    """

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None) or not (self.seconds or self.steps or 0) > 0:
            raise ConfigurationError(
                f"seconds={self.seconds}, steps={self.steps}: give one budget of a run, and a positive one."
            )

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} seconds of processor time"

    def steps_at(self, seconds_a_step: float) -> int:
        """The number of training steps that it pays for, at least one."""
        return self.steps if self.seconds is None else max(1, int(self.seconds / seconds_a_step))  # type: ignore[return-value]


@dataclass(frozen=True)
class RateSearch:
    """How an architecture's learning rate is chosen.

    Args:
        multiples: of the architecture's own rate. Of several, the one is taken that did best on validation rows in a
            trial with seed 0, which comes on top of the budget.
        trial: steps of a trial, as a share of those of a run. Few are cheap, but favour rates that are too small.
        recipe: whose trials choose for all recipes; each recipe has its own when not given.

    Raises:
        ConfigurationError: a multiple that is not positive, a share outside (0, 1], an unknown name.
    """

    multiples: tuple[float, ...] = (1.0,)
    trial: float = 0.1
    recipe: str | None = None

    def __post_init__(self) -> None:
        if not self.multiples or not min(self.multiples) > 0:
            raise ConfigurationError(f"rates={self.multiples}: expected positive multiples of the learning rate.")
        if not 0 < self.trial <= 1:
            raise ConfigurationError(f"trial={self.trial}: expected a share of the steps, above 0 and at most 1.")
        if self.recipe is not None and self.recipe not in RECIPES:
            raise unknown_name("recipe", self.recipe, RECIPES)

    def __str__(self) -> str:
        multiples = ", ".join(f"{one:g}" for one in self.multiples)
        where = "validation rows" if self.recipe is None else f"validation rows of {self.recipe}"
        return f"of {multiples} times its own the one that did best on {where} after {self.trial:.0%} of the steps"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        recipes: names of `contraflow recipes`.
        architectures: names of `contraflow architectures`, each trained at its own defaults.
        budget: of every run.
        seeds: runs of each, with seeds 0, 1, …: of data split, weights, order and noise.
        limit: score only so many test rows; those of the recipe when not given.
        validation: validate on only so many rows; as many as the recipe does when not given.
        rates: how each architecture's learning rate is chosen; its own when not given.

    Raises:
        ConfigurationError: an unknown name, none, or a number below 1.
    """

    recipes: tuple[str, ...]
    architectures: tuple[str, ...]
    budget: Budget
    seeds: int = 2
    limit: int | None = None
    validation: int | None = None
    rates: RateSearch = RateSearch()

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("recipe", self.recipes, RECIPES),
            ("architecture", self.architectures, ARCHITECTURES),
        ):
            if not names:
                raise ConfigurationError(f"no {kind} to compare: `contraflow {kind}s` lists them.")
            for name in names:
                if name not in known:
                    raise unknown_name(kind, name, known)
        for name, value in (("seeds", self.seeds), ("limit", self.limit), ("validation", self.validation)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}={value}: it must be at least 1.")


@dataclass(frozen=True)
class RunResult:
    """One run, measured.

    Attributes:
        recipe, architecture, seed: which run.
        value, standard_error, unit, rows: the held-out score, its error over the rows.
        truth: mean log-density in nats of the distribution that the same rows were drawn from, where it is known.
        parameters: numbers learned.
        steps: of training.
        seconds_a_step: processor time, mean of the steps timed before the first seed.
        learning_rate: its largest value.
        sampling_seconds: processor time of 1,000 samples; ``None`` where the inverse failed.
        inverse_error: max |x - f⁻¹(f(x))| over test rows after preprocessing; ``None`` where the inverse failed.
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


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error."""

    recipe: str
    architecture: str
    seed: int
    error: str


def run_comparison(
    comparison: Comparison, out: Path, watch: Watch = lambda name: nullcontext(Silent())
) -> tuple[list[RunResult], list[Failure]]:
    """Every run of a comparison that `out` does not have yet, one after another; one that fails stops no other.

    Args:
        out: folder of the runs, made where it is missing.
        watch: makes the watcher of each run.

    Raises:
        OutputError: `out` has runs of another budget.
        KeyboardInterrupt: after a checkpoint; the same call goes on from it.
    """
    results: list[RunResult] = []
    failures: list[Failure] = []
    for recipe in comparison.recipes:
        for architecture in comparison.architectures:
            for seed in range(comparison.seeds):
                try:
                    with watch(f"{recipe}, {architecture}, seed {seed}") as watcher:
                        results.append(_run(comparison, recipe, architecture, seed, out, watcher))
                except OutputError:
                    raise
                except Exception as error:  # whatever it is, it belongs in this run's row
                    failures.append(Failure(recipe, architecture, seed, f"{type(error).__name__}: {error}"))
    return results, failures


def _run(comparison: Comparison, name: str, architecture: str, seed: int, out: Path, watcher: Watcher) -> RunResult:
    folder = out / name / architecture / f"seed-{seed}"
    recipe = _recipe(comparison, name, architecture, seed)
    steps, seconds = steps_within(comparison.budget, recipe, folder.parent)
    finished = folder / "result.json"
    if finished.exists():
        watcher.note(f"{folder}: finished earlier")
        return RunResult(**json.loads(finished.read_text(encoding="utf-8")))
    recipe = within(recipe, steps)
    recipe.training.learning_rate *= chosen_multiple(comparison, name, architecture, out, watcher)
    watcher.note(f"{folder}: {steps} steps of {seconds:.3g} s")
    outcome = run_recipe(recipe, folder, resume=(folder / "checkpoints").is_dir(), watcher=watcher)
    result = _measure(recipe, name, seconds, outcome)
    write_json(finished, asdict(result))
    return result


def _recipe(comparison: Comparison, name: str, architecture: str, seed: int) -> Recipe:
    recipe = with_architecture(RECIPES[name](), architecture)
    recipe.seed = seed
    recipe.evaluation.limit = comparison.limit or recipe.evaluation.limit
    recipe.training.validation_size = comparison.validation or recipe.training.validation_size
    return recipe


def steps_within(budget: Budget, recipe: Recipe, folder: Path) -> tuple[int, float]:
    """Steps that a budget pays for, and seconds a step: read from FOLDER/pace.json, or measured and written there.

    Raises:
        OutputError: the folder has runs of another budget, or cannot be written.
    """
    asked = {
        "budget": asdict(budget),
        "limit": recipe.evaluation.limit,
        "validation": recipe.training.validation_size,
    }
    path = folder / "pace.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise OutputError(f"{folder} has runs under {found['asked']}, not {asked}. Choose another --out.")
        return found["steps"], found["seconds_a_step"]
    seconds = seconds_a_step(recipe, at_most=budget.seconds)
    steps = budget.steps_at(seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}.") from error
    write_json(path, {"asked": asked, "steps": steps, "seconds_a_step": seconds})
    return steps, seconds


def seconds_a_step(recipe: Recipe, at_most: float | None = None) -> float:
    """Mean processor time of a recipe's training steps, of which nothing is kept.

    Of 20 after 3 that are not timed, or of the first that have spent `at_most` seconds.
    """
    data = load_data(recipe.data, recipe.seed).require_train()
    preprocessing = make_preprocessing(recipe, data)
    flow = build_flow(recipe, data.event_shape, preprocessing)
    settings = replace(recipe.training, steps=_UNTIMED_STEPS + _TIMED_STEPS)
    state = TrainingState.begin(flow, settings, recipe.seed)
    augment = preprocessing.augment if isinstance(preprocessing, ImagePreprocessing) else None
    start, spent, timed = 0.0, 0.0, 0
    rows, labels = training_rows(recipe, data)
    for record in train(state, rows, settings, recipe.objective, augment, labels):
        timed = record.step - _UNTIMED_STEPS
        if timed == 0:
            start = time.process_time()
        elif timed > 0:
            spent = time.process_time() - start
            if at_most is not None and spent >= at_most:
                break
    return spent / timed


def chosen_multiple(comparison: Comparison, name: str, architecture: str, out: Path, watcher: Watcher) -> float:
    """The multiple of an architecture's learning rate on a recipe: read from rate.json, or found and written there.

    Raises:
        OutputError: `out` has the choice of another search.
    """
    search = comparison.rates
    if len(search.multiples) == 1:
        return search.multiples[0]
    recipe = _recipe(comparison, search.recipe or name, architecture, seed=0)
    folder = out / (search.recipe or name) / architecture
    steps, _ = steps_within(comparison.budget, recipe, folder)
    path, asked = folder / "rate.json", {"multiples": list(search.multiples), "trial": search.trial}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise OutputError(f"{folder} has a choice under {found['asked']}, not {asked}. Choose another --out.")
        return float(found["multiple"])
    scores = []
    for multiple in search.multiples:
        short = within(recipe, max(1, int(search.trial * steps)))
        short.training.learning_rate *= multiple
        short.training.validate_every = short.training.steps
        with tempfile.TemporaryDirectory() as scratch:
            try:
                scores.append(best_validation(short, Path(scratch)))
            except ContraflowError as error:  # it diverged, or its inverse or solver failed: the worst of all
                watcher.note(f"{folder}: {multiple:g} times the learning rate fails: {error}")
                scores.append(-math.inf)
    best = search.multiples[scores.index(max(scores))]
    write_json(path, {"asked": asked, "scores": [str(one) for one in scores], "multiple": best})
    return best


def within(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps: its cosine ends there, and it is validated ten times on the way."""
    training = replace(
        recipe.training,
        steps=steps,
        schedule="cosine",
        warmup_steps=min(recipe.training.warmup_steps, steps // 10),
        validate_every=max(1, steps // 10),
    )
    return replace(recipe, training=training)


def _measure(recipe: Recipe, name: str, seconds_a_step: float, outcome: Outcome) -> RunResult:
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
        parameters=sum(one.numel() for one in flow.parameters()),
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
    return error if error < float("inf") else None
