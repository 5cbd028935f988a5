"""The command that a report or a page prints is one that `contraflow train` reads as the same recipe."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from contraflow.architectures import ARCHITECTURES
from contraflow.cli.train import parse_training
from contraflow.errors import ConfigurationError
from contraflow.logdet import AdaptiveRoulette, Exact, Geometric, Poisson, PowerSeries, RussianRoulette
from contraflow.logdet.probes import Gaussian
from contraflow.runs import RECIPES, Recipe, with_architecture
from contraflow.runs.command import command
from contraflow.runs.recipe import NormSettings
from contraflow.training import Hybrid, Likelihood


def parsed(text: str) -> Recipe:
    """What a shell and `contraflow train` make of a command."""
    program, verb, *words = shlex.split(text)
    assert (program, verb) == ("contraflow", "train")
    recipe, options = parse_training(words)
    assert options.out == "a run"
    return recipe


def survives(recipe: Recipe) -> str:
    text = command(recipe, "a run")
    assert parsed(text) == recipe
    return text


@pytest.mark.parametrize("name", RECIPES)
def test_a_plain_recipe_is_its_name(name: str) -> None:
    assert survives(RECIPES[name]()) == f"contraflow train {name} --out 'a run'"


@pytest.mark.parametrize(("architecture", "name"), list(zip(ARCHITECTURES, itertools.cycle(RECIPES), strict=False)))
def test_every_architecture(architecture: str, name: str) -> None:
    recipe = with_architecture(RECIPES[name](), architecture)
    own = RECIPES[name]().architecture.name == architecture
    chosen = "" if own else f" architecture.name={architecture}"
    assert command(recipe, "run") == f"contraflow train {name}{chosen} --out run"
    recipe.architecture.options["hidden"] = [3, 5]
    recipe.training.learning_rate = 1e-5
    survives(recipe)


def edited(path: str, value: Any) -> Callable[[Recipe], None]:
    *parts, last = path.split(".")

    def edit(recipe: Recipe) -> None:
        where: Any = recipe
        for part in parts:
            where = getattr(where, part)
        setattr(where, last, value)

    return edit


CHANGES: list[tuple[str, Any]] = [
    ("architecture.norms", NormSettings("mixed", [2.0, math.inf, 1.8, 2.0])),
    ("architecture.norms", NormSettings("learned_shared", squash="skewed", orders_objective="mean_norm")),
    ("architecture.options", {}),
    ("architecture.options", {"blocks": 3}),
    ("architecture.options", {"hidden": [1], "blocks": 2, "activation": "elu", "bound": 0.9, "batch_norm": True}),
    (
        "architecture.options",
        {"tolerance": 1e-7, "most": math.inf, "least": -math.inf, "nothing": None, "in": {"a": [1.5]}},
    ),
    ("data.columns", ["a b", "Infinity", "1", "null", "ö", "it's", "\U0001f600", "[x]"]),
    ("data.dequantise", ["1", 1, "x"]),
    ("data.root", "/a folder/it's"),
    ("data.root", None),
    ("data.name", "1e3"),
    ("data.name", "a=b: c.csv"),
    ("data.labels", 10),
    ("device", "cuda:1"),
    ("dtype", "float64"),
    ("seed", 2**40),
    ("training.learning_rate", 1e-05),
    ("training.polyak", 0.0),
    ("training.certified", True),
    ("estimator", PowerSeries(5)),
    ("estimator", PowerSeries(3, Gaussian(), 2)),
    ("estimator", Exact()),
    ("estimator", AdaptiveRoulette(stratified=False)),
    ("estimator", RussianRoulette(Geometric(0.25), 0)),
    ("evaluation.estimator", RussianRoulette(Poisson(3.0), 20)),
    ("evaluation.estimator", PowerSeries(40)),
    ("objective", Likelihood()),
    ("objective", Hybrid("1/D")),
    ("objective", Hybrid(0.0)),
    ("objective", Hybrid(2.5)),
]


@pytest.mark.parametrize("name", ["digits_hybrid", "power"])
@pytest.mark.parametrize(("path", "value"), CHANGES, ids=[f"{path}={value}" for path, value in CHANGES])
def test_every_kind_of_change(name: str, path: str, value: Any) -> None:
    recipe = RECIPES[name]()
    recipe.data.root = "/data"
    edited(path, value)(recipe)
    survives(recipe)


def test_infinity_is_spelt_as_the_command_reads_it() -> None:
    recipe = RECIPES["table"]()
    recipe.architecture.norms = NormSettings("mixed", [2.0, math.inf, 2.0])
    assert "'architecture.norms.orders=[2.0,.inf,2.0]'" in survives(recipe)


def test_a_name_that_no_recipe_has() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown recipe 'digitz'\. Did you mean 'digits'"):
        command(dataclasses.replace(Recipe(), recipe="digitz"), "run")
