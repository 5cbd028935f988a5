"""The runs of an experiment, as recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from contraflow.runs import Recipe


@dataclass(frozen=True)
class Setting:
    """The flows that an experiment trains.

    Args:
        about: description for the page.
        family: folder of the runs; experiments of the same family share their runs.
        recipes: returns label → recipe, without seed; the label is the name of a folder.
        seeds: number of runs of each recipe, with seeds 0, 1, ….
        seconds: processor time of the training steps of each run, in place of the recipe's number of steps.
    """

    about: str
    family: str = ""
    recipes: Callable[[], Mapping[str, Recipe]] = dict
    seeds: int = 1
    seconds: float | None = None
