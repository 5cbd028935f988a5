"""The runs of an experiment: ordinary recipe runs in folders, none of them trained twice."""

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
class Run:
    """A finished run.

    Attributes:
        folder: of its checkpoints, log and evaluation.
        seed: of data split, weights, order and noise.
        value, standard_error, unit, rows: the held-out score and its error over rows; ``None`` where the run failed.
        training_seconds: of its training steps by the clock.
        failure: the error that it ended in; empty where it did not.
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
    """How an experiment is run.

    Args:
        name: of the experiment.
        setting: what is trained.
        budget: reduced, full, or the seconds of processor time of every run's training steps.
        seeds: runs of each recipe.
        out: folder of the page, the pictures and, in runs/, of the runs.
        root: folder of the named data sets.
        watch: makes who looks on.

    Raises:
        ConfigurationError: fewer than one seed, or a budget that is none.
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
        _ = self.seconds  # refused here rather than after an hour

    @property
    def seconds(self) -> float | None:
        """Processor time of every run's training steps; ``None`` where the recipes say their number."""
        if self.budget in ("reduced", "full"):
            return self.setting.seconds
        try:
            seconds = float(self.budget)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise ConfigurationError(f"budget={self.budget}: it must be reduced, full or a number of seconds.")
        return seconds

    def picture(self, suffix: str = "") -> Path:
        """Where a picture of the experiment goes."""
        return self.out / f"{self.name}{suffix}.png"

    def labels(self) -> list[str]:
        """The names of what is trained."""
        return list(self.setting.recipes())

    def folder(self, label: str, seed: int) -> Path:
        """Where a run lives."""
        family = self.setting.family if self.budget == "reduced" else f"{self.setting.family}-{self.budget}"
        return self.out / "runs" / family / label / f"seed-{seed}"

    def recipe(self, label: str, seed: int) -> Recipe:
        """The recipe of a run, with as many steps as the budget pays for."""
        recipe = deepcopy(self.setting.recipes()[label])
        recipe.seed, recipe.data.root = seed, self.root
        if self.seconds is None:
            return recipe
        steps, _ = steps_within(Budget(seconds=self.seconds), recipe, self.folder(label, seed).parent)
        return within(recipe, steps)

    def runs(self) -> dict[str, list[Run]]:
        """Every run of the setting, by label and seed; what is there is not trained again.

        Raises:
            OutputError: a folder holds a run of another recipe.
        """
        return {label: [self.run(label, seed) for seed in range(self.seeds)] for label in self.labels()}

    def run(self, label: str, seed: int) -> Run:
        """One run; one that diverges, or cannot be inverted, is a result as well.

        Raises:
            OutputError: its folder holds a run of another recipe.
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


def scores(runs: Sequence[Run]) -> list[float]:
    """The held-out scores of those that finished."""
    return [one.value for one in runs if one.value is not None]


def total_seconds(runs: Mapping[str, Sequence[Run]]) -> float:
    """Seconds of the training steps of all runs."""
    return sum(one.training_seconds for group in runs.values() for one in group)


def training_seconds(folder: Path) -> float:
    """Seconds of a run's training steps by the clock: the mean of those in its log times their number."""
    lines = TrainingLog(folder).records()
    return lines[-1]["step"] * statistics.mean(line["seconds"] for line in lines) if lines else 0.0


def check_same(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder whose run is of another recipe, wherever its data and its device were.

    Raises:
        OutputError: it is.
    """
    for path in sorted((folder / "checkpoints").glob("*/config.json")):
        written = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        found = Recipe.from_dict(written).as_dict()  # settings since then at defaults
        if changed := sorted(_differences(_placeless(found), _placeless(recipe.as_dict()))):
            raise OutputError(
                f"{folder} holds a run of another recipe: {', '.join(changed)} differ. Remove it or take another --out."
            )


def _placeless(recipe: dict[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in recipe["data"].items() if key != "root"}
    return {key: value for key, value in recipe.items() if key != "device"} | {"data": data}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key in one.keys() | other.keys():
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict) and key != "options":
            yield from _differences(mine, theirs, f"{where}{key}.")
        elif json.dumps(mine) != json.dumps(theirs):
            yield f"{where}{key}"


def _read(folder: Path, seed: int) -> Run:
    failure: str = json.loads((folder / "run.json").read_text(encoding="utf-8"))["failure"]
    report: dict[str, Any] = {"value": None, "standard_error": None, "unit": "", "rows": 0}
    if not failure:
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    score = {key: report[key] for key in ("value", "standard_error", "unit", "rows")}
    return Run(folder, seed, **score, training_seconds=training_seconds(folder), failure=failure)
