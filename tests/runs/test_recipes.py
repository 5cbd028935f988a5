"""Every recipe builds its flow, and says plainly what it cannot do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch

import contraflow.runs.build
from contraflow.architectures import ARCHITECTURES
from contraflow.architectures.residual_flow import RESIDUAL_FLOWS
from contraflow.bijections import Bijection
from contraflow.data import DATASETS, Dataset
from contraflow.errors import CheckpointError, ConfigurationError, ContraflowError
from contraflow.logdet import (
    EVALUATION,
    TRAINING,
    AdaptiveRoulette,
    Exact,
    LogDetEstimator,
    Poisson,
    PowerSeries,
    RussianRoulette,
)
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing
from contraflow.runs import RECIPES, EvaluationSettings, Recipe, build_flow, with_architecture
from contraflow.runs.build import architecture_options, make_device, make_preprocessing
from contraflow.training import Hybrid

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "svhn": (3, 32, 32),
    "imagenet32": (3, 32, 32),
    "imagenet64": (3, 64, 64),
    "celeba64": (3, 64, 64),
    "celebahq256": (3, 256, 256),
    "images.npz": (3, 32, 32),
    "power": (6,),
    "gas": (8,),
    "hepmass": (21,),
    "miniboone": (43,),
    "bsds300": (63,),
    "table.csv": (5,),
}


def stand_in(recipe: Recipe) -> Dataset:
    """A few rows of the shape of the recipe's data."""
    shape = SHAPES.get(recipe.data.name, (2,))
    if len(shape) == 3:
        levels = {"digits": 17, "celeba64": 32}.get(recipe.data.name, 256)
        rows = torch.randint(0, levels, (4, *shape), dtype=torch.uint8)
        return Dataset(recipe.data.name, rows, rows, rows, levels=levels)
    rows = torch.randn(20, *shape)
    return Dataset(recipe.data.name, rows, rows, rows)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[name]()
    assert recipe.recipe == name
    assert recipe.data.name in DATASETS or recipe.data.name in ("images.npz", "table.csv", "celeba64")
    data = stand_in(recipe)
    preprocessing = make_preprocessing(recipe, data)
    assert isinstance(preprocessing, ImagePreprocessing if data.is_image else (TablePreprocessing, type(None)))
    monkeypatch.setattr(contraflow.runs.build, "make_device", torch.device)
    recipe.device = "meta"  # 25 million parameters without their memory
    with torch.device("meta"):
        flow = build_flow(recipe, data.event_shape, preprocessing)
    assert flow.event_shape == data.event_shape
    assert sum(one.numel() for one in flow.parameters()) > 1000


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    recipe = RECIPES[name]()
    again = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert again == recipe
    assert type(again.training) is type(recipe.training)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_fresh_each_time(name: str) -> None:
    one = RECIPES[name]()
    one.training.steps = -7
    one.architecture.options["hidden"] = "spoiled"
    assert RECIPES[name]().training.steps > 0
    assert RECIPES[name]().architecture.options.get("hidden") != "spoiled"


def test_a_small_one_runs_in_its_dtype_and_repeats_its_seed() -> None:
    recipe = RECIPES["checkerboard"]()
    recipe.architecture.options = {"blocks": 1, "hidden": [4]}
    recipe.dtype = "float64"
    before = torch.get_rng_state()
    one, two = (build_flow(recipe, (2,), None) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    recipe.seed = 1
    other = build_flow(recipe, (2,), None)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def digits(change: Callable[[Recipe], object]) -> Recipe:
    recipe = RECIPES["digits"]()
    change(recipe)
    return recipe


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: setattr(r.architecture, "name", "residual_flow_digit"), "Did you mean 'residual_flow_digits'"),
        (lambda r: r.architecture.options.update(hiden=4), r"option 'hiden'. Did you mean 'hidden'\?.*Known: "),
        (lambda r: r.architecture.options.update(logdet=4), "unknown architecture option 'logdet'"),
        (lambda r: r.architecture.options.update(activation="elo"), "Did you mean 'elu'"),
        (lambda r: r.architecture.options.update(initialisation="ortogonal"), "Did you mean 'orthogonal'"),
        (
            lambda r: r.architecture.options.update(activation="cpila", hidden=1),
            r"hidden widths \(1, 1\): CPila makes 2 features of every unit",
        ),
        (lambda r: r.architecture.options.update(hidden="eight"), r"architecture.options=\{'hidden': 'eight'\}"),
        (lambda r: r.architecture.options.update(blocks=[1, "x"]), "cannot be built with them"),
        (lambda r: r.architecture.options.update(hidden=-1), "cannot be built with them"),
        (lambda r: setattr(r, "device", "gpu"), "device=gpu: it must be cpu, cuda or cuda:N"),
        (lambda r: setattr(r, "device", "cpu:x"), "device=cpu:x"),
    ],
)
def test_what_cannot_be_built_is_named(change: Callable[[Recipe], object], match: str) -> None:
    with pytest.raises(ContraflowError, match=match):
        build_flow(digits(change), (1, 8, 8), None)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: setattr(r.preprocessing, "kind", "none"), "preprocessing.kind=none.*it must be image"),
        (lambda r: setattr(r.preprocessing, "bits", 3), "bits=3"),
        (lambda r: setattr(r.preprocessing, "alpha", 0.5), "alpha"),
        (lambda r: setattr(r.preprocessing, "crop_padding", 8), "crop_padding=8.*8×8"),
    ],
)
def test_preprocessing_that_does_not_fit(change: Callable[[Recipe], object], match: str) -> None:
    recipe = digits(change)
    with pytest.raises(ConfigurationError, match=match):
        make_preprocessing(recipe, stand_in(recipe))


@pytest.mark.parametrize("name", ["draws", "batch_size", "limit", "samples"])
def test_evaluation_settings_are_checked_before_any_training(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"evaluation\.{name}=0: it must be at least 1"):
        EvaluationSettings(**{name: 0})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_checked(seed: int) -> None:
    with pytest.raises(ConfigurationError, match=f"seed={seed}"):
        dataclasses.replace(Recipe(), seed=seed)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (None, "recipe=None: expected keys and values"),
        ([], "expected keys and values"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
        ({"training": {"step": 1}}, "Did you mean 'training.steps'"),
        ({"training": 3}, "training=3: expected keys and values"),
        ({"training": {"steps": "many"}}, "training.steps='many' has the wrong type"),
        ({"evaluation": {"estimator": {"q": 1}}}, "unknown key 'evaluation.estimator.q'"),
        ({"estimator": {"kind": "series", "terms": "5"}}, "estimator.terms='5' has the wrong type"),
        ({"estimator": {"kind": "serie"}}, "Did you mean 'series'"),
        ({"estimator": {"kind": ["series"]}}, "unknown estimator.kind"),
        ({"estimator": {"series_dtype": "float16"}}, "series_dtype='float16'"),
        ({"estimator": {"p": 2.0}}, "p=2.0"),
        ({"evaluation": {"draws": 0}}, "evaluation.draws=0"),
        ({"architecture": {"norms": {"kind": "mixed"}}}, "mixed norms need orders"),
    ],
)
def test_a_configuration_that_is_none(values: object, match: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: .*{match}"):
        Recipe.from_dict(values)


FLAT = {  # as runs recorded an estimator before it was a choice: the keys of all kinds at once
    "kind": "roulette",
    "law": "geometric",
    "p": 0.5,
    "rate": 2.0,
    "exact_terms": 2,
    "terms": 5,
    "probe": "rademacher",
    "probes": 1,
    "stratified": True,
    "series_dtype": "same",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, TRAINING),
        ({"law": "poisson", "rate": 3.0}, RussianRoulette(Poisson(3.0))),
        ({"law": "adaptive", "probes": 2}, AdaptiveRoulette(probes=2)),
        ({"kind": "series", "terms": 7}, PowerSeries(7)),
        ({"kind": "exact"}, Exact()),
    ],
)
def test_older_runs_are_read(changes: dict[str, object], expected: LogDetEstimator) -> None:
    flat = {**FLAT, **changes}
    older = {
        "estimator": flat,
        "evaluation": {"draws": 3, "estimator": {**flat, "exact_terms": 20, "stratified": False}},
        "training": {"objective": "hybrid", "likelihood_weight": 0.5, "steps": 7},
    }
    found = Recipe.from_dict(older)
    assert (found.estimator, found.objective) == (expected, Hybrid(0.5))
    assert (found.training.steps, found.evaluation.draws) == (7, 3)
    if not changes:
        assert found.evaluation.estimator == EVALUATION
    plain = Recipe.from_dict({"training": {"objective": "likelihood", "likelihood_weight": "1/D"}})
    assert plain == Recipe()
    with pytest.raises(CheckpointError, match=r"unknown key 'estimator\.q'"):
        Recipe.from_dict({"estimator": {**flat, "q": 1}})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_options_are_those_of_the_function(name: str) -> None:
    options = architecture_options(name)
    for small in ARCHITECTURES[name].small.values():
        assert small.keys() <= options.keys()
    assert not {"event_shape", "logdet", "inverse", "norms", "preprocessing"} & options.keys()
    if name in RESIDUAL_FLOWS:
        assert {"blocks", "hidden", "bound", "activation"} <= options.keys()


def test_another_architecture_brings_its_own_settings() -> None:
    recipe = RECIPES["power"]()
    same = with_architecture(recipe, "residual_flow_table")
    assert same == recipe
    other = with_architecture(recipe, "residual_flow_2d")
    assert (other.architecture.name, other.architecture.options) == ("residual_flow_2d", {})
    assert recipe.architecture.options, "the recipe given is not changed"
    with pytest.raises(ConfigurationError, match="Did you mean 'residual_flow_2d'"):
        with_architecture(recipe, "residual_flow_2")


def test_devices() -> None:
    assert make_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="device=meta"):
        make_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match=r"device=cuda: not available here .* Try cpu"):
            make_device("cuda")


def test_the_papers_preprocessing() -> None:
    mnist, cifar = RECIPES["mnist_paper"](), RECIPES["cifar10_paper"]()
    built: list[Bijection | None] = [make_preprocessing(recipe, stand_in(recipe)) for recipe in (mnist, cifar)]
    assert [one.alpha for one in built if isinstance(one, ImagePreprocessing)] == [1e-6, 0.05]
    assert [one.flip for one in built if isinstance(one, ImagePreprocessing)] == [False, True]
