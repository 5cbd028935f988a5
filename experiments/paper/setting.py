"""What an experiment trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from contraflow.runs import Recipe


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Args:
        about: in words.
        family: folder of its runs; experiments of one family share them.
        recipes: makes label → recipe, its seed left open; a label is a folder's name.
        seeds: runs of each, with seeds 0, 1, ….
        seconds: of processor time for the training steps of every run, in place of the recipes' own numbers of steps.
    """

    about: str
    family: str = ""
    recipes: Callable[[], Mapping[str, Recipe]] = dict
    seeds: int = 1
    seconds: float | None = None
