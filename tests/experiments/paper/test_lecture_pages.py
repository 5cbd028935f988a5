"""Abilities, reconstructions and samples: measured properties are the known ones, and pages show finished runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import experiments.paper.reconstructions as reconstructions
import experiments.paper.samples as samples
from contraflow.data import load_dataset
from experiments.paper import EXPERIMENTS, Plan, abilities
from experiments.paper.abilities import Abilities, has_free_form, small_flow
from experiments.paper.plan import FinishedRun


@pytest.mark.parametrize(
    ("family", "density", "sampling", "exact", "free_form"),
    [
        ("NICE", True, True, True, False),
        ("Real NVP", True, True, True, False),
        ("Glow", True, True, True, False),
        ("planar", True, False, True, False),
        ("FFJORD", True, True, False, True),
        ("i-ResNet", True, False, False, True),
        ("Residual Flow", True, False, False, True),
    ],
)
def test_the_abilities_of_a_family(family: str, density: bool, sampling: bool, exact: bool, free_form: bool) -> None:
    found = Abilities.of(small_flow(family))
    assert (found.density, found.sampling, found.free_form) == (density, sampling, free_form)
    assert (found.likelihood == "exact log-determinant") == exact


def test_structure_of_jacobians() -> None:
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert has_free_form(lambda x: x + (x @ weight).tanh(), 4, torch.float32)
    assert not has_free_form(lambda x: x @ weight, 4, torch.float32), "linear"
    assert not has_free_form(lambda x: x + (x @ weight.tril()).tanh(), 4, torch.float32), "triangular"
    assert not has_free_form(lambda x: x + (x @ weight[:, :1]).tanh() * weight[:1], 4, torch.float32), "of rank one"


def test_the_page_of_abilities_has_a_row_for_each_family(tmp_path: Path) -> None:
    result = abilities.run(Plan("abilities", EXPERIMENTS["abilities"].reduced, out=tmp_path))
    assert [row[0] for row in result.tables[0].rows] == list(abilities._FAMILIES)
    assert result.findings[0].endswith("FFJORD, i-ResNet, Residual Flow.")


def test_the_bound_decides_whether_images_are_reconstructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstructions, "_STEPS", 60)
    monkeypatch.setattr(reconstructions, "_IMAGES", 30)
    result = reconstructions.run(Plan("reconstructions", EXPERIMENTS["reconstructions"].reduced, out=tmp_path))
    bounded, unbounded = (errors[0] for errors in result.values["errors"].values())
    assert bounded[-1] < 0.01 < bounded[0], "twenty iterations converge, one does not"
    assert unbounded[-1] > 1
    with_bound, without = (values[0] for values in result.values["lipschitz"].values())
    assert with_bound < 1 < without
    assert (tmp_path / "reconstructions.png").read_bytes().startswith(b"\x89PNG")


def test_networks_differ_in_the_bound_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstructions, "_STEPS", 0)
    data = load_dataset("digits")
    flows = [reconstructions.classifier(bound, data, 0) for bound in (0.9, math.inf)]
    for first, second in zip(*(flow.parameters() for flow in flows), strict=True):
        assert torch.equal(first, second)


def evaluation(folder: Path, name: str, value: float | None, mutate: float = 0.0, unit: str = "bits/dim") -> None:
    recipe = EXPERIMENTS["samples"].reduced.recipes()["residual_flow"]
    recipe.data.name, recipe.preprocessing.mutate = name, mutate
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "config.json").write_text(json.dumps({"recipe": recipe.as_dict()}))
    (folder / "evaluation.json").write_text(json.dumps({"value": value, "unit": unit}))


def test_the_best_run_of_each_data_set_is_drawn(tmp_path: Path) -> None:
    evaluation(tmp_path / "a" / "seed-0", "digits", 2.0)
    evaluation(tmp_path / "a" / "seed-1", "digits", 1.9)
    evaluation(tmp_path / "b", "digits", 1.0, mutate=0.1)
    evaluation(tmp_path / "c", "mnist", 1.5)
    evaluation(tmp_path / "d", "power", 0.5, unit="nats")
    evaluation(tmp_path / "e", "cifar10", None)
    (tmp_path / "a" / "evaluation.json").write_text(json.dumps({"value": 0.0, "unit": "bits/dim"}))
    assert samples.best_runs(tmp_path) == {"digits": (tmp_path / "a" / "seed-1", 1.9), "mnist": (tmp_path / "c", 1.5)}


def test_samples_of_a_short_run(tmp_path: Path) -> None:
    setting = EXPERIMENTS["samples"].reduced
    recipe = setting.recipes()["residual_flow"]
    recipe.architecture.options = {"blocks": [1], "hidden": 4, "dense_blocks": 0}
    recipe.training.steps, recipe.training.warmup_steps, recipe.training.validate_every = 2, 0, 0
    recipe.evaluation.limit, recipe.evaluation.draws, recipe.evaluation.samples = 8, 1, 1
    plan = Plan("samples", type(setting)("Tiny.", "tiny", lambda: {"residual_flow": recipe}), out=tmp_path)
    result = samples.run(plan)
    run: FinishedRun = plan.run("residual_flow", 0)
    assert result.tables[0].rows[0] == ("digits", "–", f"{run.value:.3f}")
    assert ("cifar10", "6 and 9", "no run") in result.tables[0].rows
    assert (tmp_path / "samples-digits.png").stat().st_size > 1000
