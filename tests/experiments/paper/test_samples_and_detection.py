"""Table 2, Figure 7 and out-of-distribution detection on flows of a few steps: their pages say what was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import experiments.paper.out_of_distribution as detection
import experiments.paper.reduced_entropy as entropy
import experiments.paper.sample_quality as quality
from contraflow.evaluation import ImageFeatures
from contraflow.logdet import PowerSeries
from contraflow.runs import Recipe
from experiments.paper import EXPERIMENTS, Plan, Result, digits_flows
from experiments.paper.page import write_page


def plan_of(name: str, out: Path) -> Plan:
    """The reduced setting, its flows tiny."""
    setting = EXPERIMENTS[name].reduced

    def tiny() -> Mapping[str, Recipe]:
        recipes = setting.recipes()
        for recipe in recipes.values():
            recipe.architecture.options = {"blocks": [1, 1], "hidden": 4}
            recipe.training.steps, recipe.training.warmup_steps, recipe.training.validate_every = 4, 0, 0
            recipe.training.batch_size = recipe.evaluation.limit = 8
            recipe.evaluation.draws, recipe.evaluation.samples = 1, 4
        return recipes

    return Plan(name, dataclasses.replace(setting, recipes=tiny), out=out)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the experiments share their flows."""
    return tmp_path_factory.mktemp("reproduction")


def page(plan: Plan, result: Result) -> str:
    text = write_page(EXPERIMENTS[plan.name], plan, result)
    json.loads((plan.out / f"{plan.name}.json").read_text())
    for one in result.pictures:
        assert (plan.out / one.file).read_bytes().startswith(b"\x89PNG")
    return text


@pytest.mark.slow
def test_figure_7_compares_samples_with_modes(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "_ROWS", 3)
    monkeypatch.setattr(entropy, "_SHOWN", 2)
    monkeypatch.setattr(entropy, "_STEPS", 3)
    plan = plan_of("fig7", out)
    result = entropy.run(plan)
    rows = {row[0]: row[1] for row in result.tables[0].rows}
    temperatures = [f"samples at T = {t:g}" for t in (0, 0.25, 0.5, 0.7, 0.8, 0.9, 1)]
    assert list(rows) == ["data", *temperatures, "modes above samples at T = 1", "modes above data"]
    values = result.values["seed 0"]
    assert rows["data"].startswith(f"{values['data']['mean']:.1f} ± ")
    gap = values["modes above samples at T = 1"]["mean"] - max(
        one["mean"] for name, one in values.items() if name.startswith("samples")
    )
    assert f"nats, {gap:.1f} more than the samples at the temperature with the highest mean" in result.findings[0]
    assert "## Published" in page(plan, result)


@pytest.mark.slow
def test_detection_has_every_score(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "others", lambda own, root: ["noise", "black"])
    plan = plan_of("ood", out)
    assert plan.recipe("background", 0).preprocessing.mutate == 0.1
    result = detection.run(plan)
    scores = ["log p(x)", "typicality", "typicality of 10 rows", "likelihood ratio", "input complexity"]
    assert [row[:2] for row in result.tables[0].rows] == [(name, one) for name in ("noise", "black") for one in scores]
    worst = min(result.values["detections"], key=lambda name: result.values["detections"][name]["log p(x)"]["auroc"])
    auroc = result.values["detections"][worst]["log p(x)"]["auroc"]
    assert result.findings[0].startswith(f"The AUROC of log p(x) alone is lowest for {worst}, {auroc:.3f}; ")
    assert [row[0] for row in result.tables[1].rows] == ["digits", "noise", "black"]
    assert "a background flow: the same recipe with 500 steps" in page(plan, result)


def test_others_are_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").mkdir()
    for stem in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / "FashionMNIST" / stem).write_bytes(b"")
    assert detection.others("digits", str(tmp_path)) == ["fashion_mnist", "noise", "constant", "black"]


def test_table_2_puts_flows_beside_test_images(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = ImageFeatures("pixel", False, lambda images: images[:, :1, ::2, ::2].flatten(1) / 255)
    monkeypatch.setattr(quality, "efficientnet_features", lambda: pixels)
    plan = plan_of("table2", out)
    result = quality.run(plan)
    (table,) = result.tables
    assert table.head[3] == "FID on pixel features"
    names = ["test images", *(f"samples at T = {t:g}" for t in (0.7, 0.8, 0.9, 1))]
    assert [(row[0], row[2]) for row in table.rows] == [
        (label, name) for label in ("residual_flow", "iresnet") for name in names
    ]
    assert table.caption == "180 images of each kind against 180 training images."
    means = {label: many[0][4]["kid"]["value"] for label, many in result.values.items()}
    best = min(means, key=lambda label: means[label])
    assert result.findings[0].startswith(f"KID × 1000 of samples at T = 1: {best} {1000 * means[best]:.1f} ± ")
    assert "not comparable with published FIDs" in page(plan, result)


def test_the_flows_are_what_they_are_called() -> None:
    assert digits_flows.iresnet().estimator == PowerSeries(5)
    assert digits_flows.iresnet().architecture.options == {"activation": "elu", "bound": 0.9}
    assert digits_flows.background().preprocessing.mutate == 0.1
    plain = digits_flows.background()
    plain.preprocessing.mutate, plain.training.steps = 0.0, digits_flows.residual_flow().training.steps
    assert plain == digits_flows.residual_flow()
