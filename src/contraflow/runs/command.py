"""A recipe as the command that trains it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from contraflow.runs import RECIPES, Recipe, with_architecture


def command(recipe: Recipe, out: str) -> str:
    """The `contraflow train` command of a recipe: its name, and what differs from it.

    >>> recipe = RECIPES["digits"]()
    >>> recipe.training.steps, recipe.estimator.kind = 500, "series"
    >>> command(recipe, "run")
    'contraflow train digits estimator.kind=series training.steps=500 --out run'
    """
    base = with_architecture(RECIPES[recipe.recipe](), recipe.architecture.name)
    changes = list(_changes(recipe.as_dict(), base.as_dict()))
    if recipe.architecture.name != RECIPES[recipe.recipe]().architecture.name:
        changes.insert(0, f"architecture.name={recipe.architecture.name}")
    return " ".join(["contraflow train", recipe.recipe, *changes, "--out", out])


def _changes(values: dict[str, Any], base: dict[str, Any], where: str = "") -> Iterator[str]:
    for key, value in values.items():
        if value == base.get(key):
            continue
        if isinstance(value, dict):
            yield from _changes(value, base.get(key) or {}, f"{where}{key}.")
        else:
            yield f"{where}{key}={_text(value)}"


def _text(value: Any) -> str:
    """As the command reads it: in YAML, which spells infinity with a dot."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":")).replace("Infinity", ".inf")


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
