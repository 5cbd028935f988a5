"""The runs of an experiment: ordinary runs of recipes, each in a folder; finished runs are used again."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contraflow.errors import ConfigurationError, InversionError, OutputError, TrainingError
from contraflow.files import write_json
from contraflow.flow import Flow
from contraflow.runs import Recipe, TrainingLog, load_run, run_recipe
from contraflow.runs.compare import Watch, steps_within, within
from contraflow.runs.compare_plan import Budget
from contraflow.runs.progress import Silent
from experiments.paper.setting import Setting


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been trained and scored, or has failed.

    Attributes:
        folder: of its checkpoints, log and evaluation.
        seed: of data split, initial weights, order of the data and noise.
        value, standard_error, unit, rows: the held-out score and its error over rows; ``None`` if the run failed.
        training_seconds: wall-clock time of its training steps.
        failure: the error that ended the run; empty if there was none.
    """

    folder: Path
    seed: int
    value: float | None
    standard_error: float | None
    unit: str
    rows: int
    training_seconds: float
    failure: str = ""

    def flow(self) -> Flow:
        """The trained flow, with its weights for evaluation."""
        return load_run(self.folder).flow


@dataclass(frozen=True)
class Plan:
    """An experiment with its setting, budget and output folder.

    Args:
        name: of the experiment.
        setting: the recipes to train.
        budget: reduced, full, or the seconds of processor time of the training steps of each run.
        seeds: number of runs of each recipe.
        out: folder of the page and the pictures; runs are in its subfolder runs/.
        root: folder of the named data sets.
        watch: makes the progress display of a run from its name.

    Raises:
        ConfigurationError: fewer than one seed, or an invalid budget.
    """

    name: str
    setting: Setting
    budget: str = "reduced"
    seeds: int = 1
    out: Path = Path("reproduction")
    root: str | None = None
    watch: Watch = lambda name: nullcontext(Silent())

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigurationError(f"seeds={self.seeds}: at least one is needed.")
        _ = self.seconds  # an invalid budget raises here

    @property
    def seconds(self) -> float | None:
        """Processor time of the training steps of each run; ``None`` for the recipes' own numbers of steps."""
        if self.budget in ("reduced", "full"):
            return self.setting.seconds
        try:
            seconds = float(self.budget)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise ConfigurationError(f"budget={self.budget}: it must be reduced, full or a number of seconds.")
        return seconds

    @property
    def full(self) -> bool:
        """Whether the setting is the paper's."""
        return self.budget == "full"

    def picture(self, suffix: str = "") -> Path:
        """The path of a picture of the experiment."""
        return self.out / f"{self.name}{suffix}.png"

    def labels(self) -> list[str]:
        """The labels of the recipes."""
        return list(self.setting.recipes())

    def folder(self, label: str, seed: int) -> Path:
        """The folder of a run."""
        family = self.setting.family if self.budget == "reduced" else f"{self.setting.family}-{self.budget}"
        return self.out / "runs" / family / label / f"seed-{seed}"

    def recipe(self, label: str, seed: int) -> Recipe:
        """The recipe of a run, with the number of steps that the budget allows."""
        recipe = deepcopy(self.setting.recipes()[label])
        recipe.seed, recipe.data.root = seed, self.root
        if self.seconds is None:
            return recipe
        steps, _ = steps_within(Budget(seconds=self.seconds), recipe, self.folder(label, seed).parent)
        return within(recipe, steps)

    def runs(self) -> dict[str, list[FinishedRun]]:
        """Label → runs of all seeds; only missing runs are trained.

        Raises:
            OutputError: a folder contains a run of another recipe.
        """
        return {label: [self.run(label, seed) for seed in range(self.seeds)] for label in self.labels()}

    def run(self, label: str, seed: int) -> FinishedRun:
        """One run, trained if it is missing; divergence and a failed inverse are recorded in `FinishedRun.failure`.

        Raises:
            OutputError: its folder contains a run of another recipe.
        """
        folder, recipe = self.folder(label, seed), self.recipe(label, seed)
        finished = folder / "run.json"
        check_same(folder, recipe)
        if not finished.exists():
            with self.watch(f"{self.name}: {label}, seed {seed}") as watcher:
                failure = ""
                try:
                    run_recipe(recipe, folder, resume=(folder / "checkpoints").is_dir(), watcher=watcher)
                except (TrainingError, InversionError) as error:
                    failure = f"{type(error).__name__}: {error}"
            write_json(finished, {"failure": failure})
        return _read(folder, seed)


def scores(runs: Sequence[FinishedRun]) -> list[float]:
    """The held-out scores of the runs that did not fail."""
    return [run.value for run in runs if run.value is not None]


def total_seconds(runs: Mapping[str, Sequence[FinishedRun]]) -> float:
    """Seconds of the training steps of all runs."""
    return sum(run.training_seconds for group in runs.values() for run in group)


def training_seconds(folder: Path) -> float:
    """Wall-clock time of the training steps of a run: the mean over the logged steps times the number of steps."""
    lines = TrainingLog(folder).records()
    return lines[-1]["step"] * statistics.mean(line["seconds"] for line in lines) if lines else 0.0


def check_same(folder: Path, recipe: Recipe) -> None:
    """Check that the run in a folder has this recipe; the data folder and the device may differ.

    Raises:
        OutputError: the run has another recipe.
    """
    for path in sorted((folder / "checkpoints").glob("*/config.json")):
        written = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        trained = Recipe.from_dict(written).as_dict()  # fills in settings added since then
        if changed := sorted(_differences(_placeless(trained), _placeless(recipe.as_dict()))):
            raise OutputError(
                f"{folder} contains a run of another recipe: {', '.join(changed)} differ. Remove the folder, or give "
                "another --out."
            )


def _placeless(recipe: dict[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in recipe["data"].items() if key != "root"}
    return {key: value for key, value in recipe.items() if key != "device"} | {"data": data}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key in first.keys() | second.keys():
        a, b = first.get(key), second.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and key != "options":
            yield from _differences(a, b, f"{where}{key}.")
        elif json.dumps(a) != json.dumps(b):
            yield f"{where}{key}"


def _read(folder: Path, seed: int) -> FinishedRun:
    failure: str = json.loads((folder / "run.json").read_text(encoding="utf-8"))["failure"]
    report: dict[str, Any] = {"value": None, "standard_error": None, "unit": "", "rows": 0}
    if not failure:
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    score = {key: report[key] for key in ("value", "standard_error", "unit", "rows")}
    return FinishedRun(folder, seed, **score, training_seconds=training_seconds(folder), failure=failure)
