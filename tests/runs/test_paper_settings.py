"""The sources of the paper's settings are held against the recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contraflow.runs import RECIPES
from contraflow.runs import paper_settings as module
from contraflow.runs.paper_settings import CODE, OURS, TEXT, UNSTATED, Row, page, rows, settings

NAMES = [name for name in RECIPES if name.endswith("_paper")]


def test_every_recipe_of_the_paper_has_its_sources() -> None:
    assert list(TEXT) == list(CODE) == sorted(NAMES, key=list(TEXT).index)
    assert len(NAMES) == 13


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_source(name: str) -> None:
    """Whatever is neither the text's nor the code's is named, with its reason."""
    ours = {row.setting for row in rows(name) if row.source == "ours"}
    assert ours <= OURS.keys()


def test_no_reason_is_left_over() -> None:
    ours = {row.setting for name in NAMES for row in rows(name) if row.source == "ours"}
    assert ours == OURS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_sources_name_settings_that_there_are(name: str) -> None:
    """Of any recipe: a source may state the law of an estimator where the recipe has one without a law."""
    known = {path for recipe in RECIPES.values() for path in settings(recipe())}
    assert (TEXT[name].keys() | CODE[name].keys()) - known == set()


@pytest.mark.parametrize(
    ("name", "setting", "value", "text", "code", "source"),
    [
        ("mnist_paper", "preprocessing.alpha", 1e-6, 1e-5, 1e-6, "code"),
        ("mnist_paper", "training.weight_decay", 5e-4, 5e-4, 0.0, "text"),
        ("mnist_paper", "estimator.law", "geometric", "geometric", "poisson", "text"),
        ("mnist_paper", "estimator.probe", "rademacher", UNSTATED, "gaussian", "ours"),
        ("mnist_paper", "training.steps", 300_650, 300_650, UNSTATED, "text"),
        ("cifar10_paper", "training.steps", 246_050, 246_050, UNSTATED, "text"),
        ("cifar10_small_paper", "architecture.squeeze_first", True, True, UNSTATED, "text"),
        ("cifar10_iresnet_paper", "architecture.bound", 0.9, 0.9, 0.9, "text and code"),
        ("cifar10_hybrid_paper", "architecture.dense_blocks", 0, 0, 4, "text"),
        ("svhn_hybrid_paper", "preprocessing.crop_padding", 4, 4, 4, "text and code"),
        ("imagenet32_paper", "architecture.dense_blocks", 0, 0, 4, "text"),
        ("celeba64_paper", "architecture.blocks", [16] * 4, [16] * 4, UNSTATED, "text"),
        ("celebahq256_paper", "architecture.activation", "elu", "lipswish", "elu", "code"),
        ("celebahq256_paper", "estimator.exact_terms", 8, 2, 8, "code"),
        ("celebahq256_paper", "training.batch_size", 40, 12, 40, "code"),
        ("toy_paper", "training.beta2", 0.999, UNSTATED, 0.999, "code"),
        ("toy_paper", "training.polyak", 0.0, UNSTATED, 0.0, "code"),
        ("toy_paper", "training.gradient_clip", float("inf"), UNSTATED, float("inf"), "code"),
        ("toy_paper", "architecture.zero_start", 1e-3, UNSTATED, 1e-3, "code"),
        ("toy_paper", "architecture.blocks", 100, 200, 100, "code"),
        ("toy_paper", "estimator.kind", "exact", "exact", "paper", "text"),
    ],
)
def test_settings_that_differ(name: str, setting: str, value: Any, text: Any, code: Any, source: str) -> None:
    (row,) = [row for row in rows(name) if row.setting == setting]
    assert row == Row(setting, value, text, code)
    assert row.source == source


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("mnist_paper", lambda recipe: setattr(recipe.preprocessing, "alpha", 1e-4)),
        ("celebahq256_paper", lambda recipe: setattr(recipe.training, "batch_size", 64)),
        ("cifar10_paper", lambda recipe: recipe.architecture.options.update(blocks=[8, 8, 8])),
        ("toy_paper", lambda recipe: setattr(recipe.training, "beta2", 0.99)),
    ],
)
def test_a_recipe_that_leaves_its_sources_is_noticed(
    name: str, spoil: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name]()
    spoil(recipe)
    monkeypatch.setitem(module.RECIPES, name, lambda: recipe)
    assert page() != Path(__file__).parents[2].joinpath("docs/generated/paper_settings.md").read_text(encoding="utf-8")
    assert any(row.source == "ours" for row in rows(name))


def test_the_page_is_that_of_the_recipes() -> None:
    """`python -m contraflow.runs.paper_settings > docs/generated/paper_settings.md` writes it again."""
    assert page() == Path(__file__).parents[2].joinpath("docs/generated/paper_settings.md").read_text(encoding="utf-8")
