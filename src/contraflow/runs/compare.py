"""Trains several architectures on several recipes under one budget, and measures every run alike.

OUT/RECIPE/ARCHITECTURE/seed-N is an ordinary run with result.json beside its checkpoints. Beside the seeds, pace.json
holds the number of steps, and rate.json the learning rate where it was chosen. Runs that OUT already has are not
trained again.
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

from contraflow.errors import ContraflowError, OutputError
from contraflow.files import write_json
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs.build import build_flow, load_data, make_preprocessing, training_rows
from contraflow.runs.compare_plan import Budget, Comparison
from contraflow.runs.measurement import RunResult, measure
from contraflow.runs.progress import Silent, Watcher
from contraflow.runs.recipe import Recipe
from contraflow.runs.recipes import RECIPES, with_architecture
from contraflow.runs.run import best_validation, run_recipe
from contraflow.training import TrainingState, train

_UNTIMED_STEPS, _TIMED_STEPS = 3, 20

#: Makes the watcher of a run from its name.
Watch = Callable[[str], AbstractContextManager[Watcher]]


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
    """Train and measure every run of a comparison, one after another; the others continue where one fails.

    Args:
        comparison: what is compared.
        out: the folder of the runs, made where it does not exist.
        watch: makes the watcher of each run.

    Raises:
        OutputError: `out` has runs of another budget.
        KeyboardInterrupt: after a checkpoint; the same call continues from it.
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
                except Exception as error:  # whatever it is, it belongs in the row of this run
                    failures.append(Failure(recipe, architecture, seed, f"{type(error).__name__}: {error}"))
    return results, failures


def _run(comparison: Comparison, name: str, architecture: str, seed: int, out: Path, watcher: Watcher) -> RunResult:
    folder = out / name / architecture / f"seed-{seed}"
    recipe = _recipe(comparison, name, architecture, seed)
    steps, seconds = steps_within(comparison.budget, recipe, folder.parent)
    result_file = folder / "result.json"
    if result_file.exists():
        watcher.note(f"{folder}: already finished")
        return RunResult(**json.loads(result_file.read_text(encoding="utf-8")))
    recipe = within(recipe, steps)
    recipe.training.learning_rate *= chosen_multiple(comparison, name, architecture, out, watcher)
    watcher.note(f"{folder}: {steps} steps of {seconds:.3g} s")
    outcome = run_recipe(recipe, folder, resume=(folder / "checkpoints").is_dir(), watcher=watcher)
    result = measure(recipe, name, seconds, outcome)
    write_json(result_file, asdict(result))
    return result


def _recipe(comparison: Comparison, name: str, architecture: str, seed: int) -> Recipe:
    recipe = with_architecture(RECIPES[name](), architecture)
    recipe.seed = seed
    recipe.evaluation.limit = comparison.limit or recipe.evaluation.limit
    recipe.training.validation_size = comparison.validation or recipe.training.validation_size
    return recipe


def steps_within(budget: Budget, recipe: Recipe, folder: Path) -> tuple[int, float]:
    """The steps that a budget pays for, and seconds a step: read from FOLDER/pace.json, or measured and written there.

    Raises:
        OutputError: the folder has runs of another budget, or cannot be written.
    """
    request = {
        "budget": asdict(budget),
        "limit": recipe.evaluation.limit,
        "validation": recipe.training.validation_size,
    }
    path = folder / "pace.json"
    if path.exists():
        pace = json.loads(path.read_text(encoding="utf-8"))
        if pace["asked"] != request:
            raise OutputError(f"{folder} has runs under {pace['asked']}, not {request}. Choose another --out.")
        return pace["steps"], pace["seconds_a_step"]
    seconds = seconds_a_step(recipe, at_most=budget.seconds)
    steps = budget.steps_at(seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}.") from error
    write_json(path, {"asked": request, "steps": steps, "seconds_a_step": seconds})
    return steps, seconds


def seconds_a_step(recipe: Recipe, at_most: float | None = None) -> float:
    """Mean processor time of a training step of a recipe; the trained weights are thrown away.

    After 3 steps that are not timed, 20 are, or as many as fit into `at_most` seconds.
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
    """The factor on an architecture's learning rate: read from rate.json, or chosen by trials and written there.

    Raises:
        OutputError: `out` has a factor that was chosen by another search.
    """
    search = comparison.rates
    if len(search.multiples) == 1:
        return search.multiples[0]
    recipe = _recipe(comparison, search.recipe or name, architecture, seed=0)
    folder = out / (search.recipe or name) / architecture
    steps, _ = steps_within(comparison.budget, recipe, folder)
    path, request = folder / "rate.json", {"multiples": list(search.multiples), "trial": search.trial}
    if path.exists():
        choice = json.loads(path.read_text(encoding="utf-8"))
        if choice["asked"] != request:
            raise OutputError(
                f"{folder} has a rate chosen under {choice['asked']}, not {request}. Choose another --out."
            )
        return float(choice["multiple"])
    scores = []
    for multiple in search.multiples:
        trial = within(recipe, max(1, int(search.trial * steps)))
        trial.training.learning_rate *= multiple
        trial.training.validate_every = trial.training.steps
        with tempfile.TemporaryDirectory() as scratch:
            try:
                scores.append(best_validation(trial, Path(scratch)))
            except ContraflowError as error:  # it diverged, or its inverse or solver failed: the worst score
                watcher.note(f"{folder}: {multiple:g} times the learning rate fails: {error}")
                scores.append(-math.inf)
    best = search.multiples[scores.index(max(scores))]
    write_json(path, {"asked": request, "scores": [str(score) for score in scores], "multiple": best})
    return best


def within(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with another number of steps: its cosine ends there, and it is validated ten times in between."""
    training = replace(
        recipe.training,
        steps=steps,
        schedule="cosine",
        warmup_steps=min(recipe.training.warmup_steps, steps // 10),
        validate_every=max(1, steps // 10),
    )
    return replace(recipe, training=training)
