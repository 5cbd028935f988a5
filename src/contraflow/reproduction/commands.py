"""A recipe as the command that trains it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from contraflow.recipes import RECIPES, Recipe, with_architecture


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
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            yield f"{where}{key}={text}"
