"""Figure 2: looking on changes nothing about training, and the page says what the figures say."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Generator

import experiments.paper.bias as module
from contraflow.evaluation import evaluate_likelihood
from contraflow.logdet import Exact, PowerSeries
from contraflow.runs import RECIPES, Recipe, load_run, run_recipe
from contraflow.runs.build import load_data
from experiments.paper import EXPERIMENTS, Plan, Setting
from experiments.paper.bias import Stage, findings, trajectory
from experiments.paper.plan import training_seconds


def recipes() -> dict[str, Recipe]:
    recipe = RECIPES["digits"]()
    recipe.architecture.options = {"blocks": [1, 1], "hidden": 4, "dense_blocks": 0}
    recipe.training.steps, recipe.training.warmup_steps, recipe.training.schedule = 10, 2, "constant"
    recipe.training.batch_size = 16
    recipe.evaluation.draws, recipe.evaluation.samples, recipe.evaluation.limit = 1, 1, 20
    return module._objectives(recipe)


@pytest.fixture(scope="module", autouse=True)
def _two_stages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STAGES", (0.5, 1.0))
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return Plan("fig2", Setting("Tiny.", "bias", recipes), out=tmp_path_factory.mktemp("bias"))


@pytest.fixture(scope="module")
def seen(plan: Plan) -> list[Stage]:
    return trajectory(plan, "biased-2", 0)


def test_stages_are_those_of_a_run_without_stops(plan: Plan, seen: list[Stage], tmp_path: Path) -> None:
    assert [stage.steps for stage in seen] == [5, 10]
    run_recipe(plan.recipe("biased-2", 0), tmp_path / "whole")
    folders = (tmp_path / "whole", plan.folder("biased-2", 0))
    values = [json.loads((folder / "evaluation.json").read_text())["value"] for folder in folders]
    assert values[0] == values[1]


def test_a_stage_holds_the_objective_and_the_truth(plan: Plan, seen: list[Stage]) -> None:
    flow, last = load_run(plan.folder("biased-2", 0)).flow, seen[-1]
    images = load_data(plan.recipe("biased-2", 0).data, 0).test[:20]

    def bits(estimator) -> float:
        return evaluate_likelihood(flow, images, estimator=estimator, generator=Generator().manual_seed(0)).value

    assert last.objective == bits(PowerSeries(2))
    assert last.truth == last.exact == bits(Exact())
    assert last.objective != last.truth
    # the same dequantisation noise: only probes and truncation lie between the two
    assert abs(last.unbiased - last.truth) < 0.05 < last.unbiased_error * math.sqrt(20)


def test_what_was_seen_is_not_trained_again(plan: Plan, seen: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_recipe", lambda *_, **__: pytest.fail("trained again"))
    assert trajectory(plan, "biased-2", 0) == seen


def test_an_interrupted_trajectory_goes_on(plan: Plan, seen: list[Stage]) -> None:
    half = dataclasses.replace(plan, out=plan.out / "half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STAGES", (0.5,))
        assert len(trajectory(half, "biased-2", 0)) == 1
    again = trajectory(half, "biased-2", 0)
    assert [(one.steps, one.objective, one.exact) for one in again] == [
        (one.steps, one.objective, one.exact) for one in seen
    ]


def test_the_objectives_start_alike_and_differ_in_the_estimator_alone() -> None:
    found = EXPERIMENTS["fig2"].reduced.recipes()
    assert [one.estimator for one in found.values()][:2] == [PowerSeries(2), PowerSeries(5)]
    plain = [dataclasses.replace(one, estimator=found["unbiased"].estimator) for one in found.values()]
    assert plain[0] == plain[1] == plain[2]


def test_stops_leave_no_trace_in_the_learning_rate() -> None:
    recipe = recipes()["unbiased"]
    recipe.training.schedule, recipe.training.validate_every = "cosine", 3
    rates = [[module._until(recipe, steps).training.learning_rate_at(step) for step in range(5)] for steps in (5, 10)]
    assert rates[0] == rates[1]
    assert module._until(recipe, 5).training.validate_every == 0


def stages(objectives: list[float], truths: list[float]) -> list[Stage]:
    return [
        Stage(10 * (at + 1), said, true, 0.01, true)
        for at, (said, true) in enumerate(zip(objectives, truths, strict=True))
    ]


def test_a_divergence_is_found_where_there_is_one() -> None:
    diverges = [stages([3.0, 2.0, 1.0 + shift], [3.0, 2.2, 2.6 + shift]) for shift in (0.0, 0.01, 0.02)]
    falls = [stages([3.0, 2.0, 1.0], [3.0, 2.2, 2.1 + shift]) for shift in (0.0, 0.01, 0.02)]
    overfits = [stages([3.0, 2.0, 2.1], [3.0, 2.2, 2.3])]
    honest = [stages([3.0, 2.0, 1.5], [3.0, 2.0, 1.5 + shift]) for shift in (0.0, 0.01, 0.02)]
    lines = findings({"biased-2": diverges, "biased-5": falls, "unbiased": honest})
    assert lines[0] == (
        "i-ResNet, 2 terms: in 3 of 3 seeds the true value rises while the objective falls: from its best stage on, "
        "the true value changes by +0.400 to +0.420 bits/dim and the objective by -0.980 to -1.000."
    )
    assert lines[1].endswith("in 0 of 3 seeds the true value rises while the objective falls.")
    assert lines[2].startswith("Residual Flow: in 0 of 3 seeds")
    assert lines[3].startswith(
        "i-ResNet, 2 terms: after training the objective is 1.600 ± 0.000 bits/dim below the true value"
    )
    assert "its true value minus the Residual Flow's is +1.100 ± 0.000 (paired" in lines[3]
    assert lines[5].endswith("the objective is 0.010 ± 0.006 bits/dim below the true value.")
    assert "in 0 of 1" in module._divergence("one", overfits), "the objective rises as well"
    assert "in 1 of 2" in module._divergence("mixed", [diverges[0], falls[0]])


def test_the_page_of_a_tiny_run(plan: Plan, seen: list[Stage]) -> None:
    result = module.run(plan)
    assert [row[0] for row in result.tables[0].rows] == ["5", "10"]
    assert result.tables[0].rows[-1][3] == f"{seen[-1].exact:.3f}"
    assert len(result.tables[0].head) == len(result.tables[0].rows[0]) == 10
    assert result.training_seconds > training_seconds(plan.folder("biased-2", 0)) > 0
    assert (plan.out / "fig2.png").stat().st_size > 5000
