"""Writes a recipe as the command that trains it."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from contraflow.errors import unknown_name
from contraflow.runs.recipe import Recipe
from contraflow.runs.recipes import RECIPES, with_architecture


def command(recipe: Recipe, out: str) -> str:
    """The `contraflow train` command of a recipe: its name, and the settings that differ from the recipe of that name.

    `contraflow train` reads the command as exactly this recipe.

    Args:
        recipe: the recipe to train.
        out: the folder of the run.

    Raises:
        ConfigurationError: there is no recipe of its name.

    >>> recipe = RECIPES["digits"]()
    >>> recipe.training.steps = 500
    >>> command(recipe, "run")
    'contraflow train digits training.steps=500 --out run'
    """
    if recipe.recipe not in RECIPES:
        raise unknown_name("recipe", recipe.recipe, RECIPES)
    named = RECIPES[recipe.recipe]()
    base = with_architecture(named, recipe.architecture.name)
    changes = recipe.changes(base)
    if base.architecture.name != named.architecture.name:
        changes = {"architecture.name": base.architecture.name, **changes}
    words = [f"{path}={_text(value)}" for path, value in changes.items()]
    return shlex.join(["contraflow", "train", recipe.recipe, *words, "--out", out])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _yaml(value)


def _yaml(value: Any) -> str:
    """A value as the command reads it: JSON, with infinity written .inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    if isinstance(value, list):
        return f"[{','.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_yaml(key)}:{_yaml(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
