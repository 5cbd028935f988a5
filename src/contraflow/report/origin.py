"""Where a run came from: the command, the settings, the versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import torch

from contraflow.recipes import RECIPES, Recipe, with_architecture
from contraflow.report.page import command, details, paragraph
from contraflow.report.subject import Subject


def origin(subject: Subject) -> list[str]:
    """The section at the end."""
    recipe = subject.trained.recipe
    said = training_command(recipe)
    first = [paragraph("The command that trains this run again:"), command(said)] if said is not None else []
    return [
        *first,
        details("The whole recipe", json.dumps(recipe.as_dict(), indent=2)),
        paragraph(
            f"Computed from the weights of step {subject.trained.step:,} with seed {subject.settings.seed} by "
            f"PyTorch {torch.__version__}."
        ),
    ]


def training_command(recipe: Recipe) -> str | None:
    """`contraflow train …` with the settings that differ from the named recipe's; ``None`` for a name it lacks.

    >>> recipe = RECIPES["digits"]()
    >>> recipe.training.steps = 50
    >>> training_command(recipe)
    'contraflow train digits --seed 0 --out RUN training.steps=50'
    """
    if recipe.recipe not in RECIPES:
        return None
    base = RECIPES[recipe.recipe]()
    name = recipe.architecture.name
    words = ["contraflow", "train", recipe.recipe, "--seed", str(recipe.seed), "--out", "RUN"]
    if name != base.architecture.name:
        base = with_architecture(base, name)
        words.append(f"architecture.name={name}")
    usual = dict(_flat(base.as_dict()))
    for key, value in _flat(recipe.as_dict()):
        # the device is where the run is read, not where it was trained
        if key not in ("seed", "device") and usual.get(key) != value:
            words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return shlex.join(words)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
