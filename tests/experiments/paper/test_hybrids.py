"""Tables 4 and 5 and the semi-supervised experiment: what is trained, and what is made of the scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contraflow.runs import Recipe
from contraflow.training import Hybrid
from experiments.paper import EXPERIMENTS, FinishedRun, Plan, Setting
from experiments.paper.hybrids import BLOCKS, LONG, WEIGHTS
from experiments.paper.page import markdown
from experiments.paper.semi_supervised import COUNTS, KINDS

NAMES = ("table4", "table5", "semi_supervised")


def finished(folder: Path, seed: int, bits: float, accuracy: float, failure: str = "") -> FinishedRun:
    folder.mkdir(parents=True)
    lines = [{"step": step, "bits_per_dim": bits + 8 / step} for step in range(1, 17)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    classification = {"accuracy": accuracy, "cross_entropy": 0.1, "calibration_error": 0.02, "rows": 180}
    if not failure:
        (folder / "evaluation.json").write_text(json.dumps({"value": bits, "classification": classification}))
    return FinishedRun(folder, seed, bits, 0.01, "bits/dim", 180, 30.0, failure)


def stand_in(
    name: str, found: Mapping[str, list[FinishedRun]], out: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Plan, Any]:
    experiment = EXPERIMENTS[name]
    plan = Plan(name, experiment.reduced, seeds=2, out=out)
    monkeypatch.setattr(Plan, "runs", lambda self: found)
    return plan, experiment.run(plan)


def test_the_table_holds_the_scores_and_judges_the_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = {"residual": 1.0, "coupling": 1.5, "coupling_conv1x1": 0.5}
    found = {
        f"{block}-{weight}": [
            finished(tmp_path / block / weight / str(seed), seed, bits[block] + seed / 100, 0.9 + seed / 100)
            for seed in range(2)
        ]
        for block in BLOCKS
        for weight in WEIGHTS
    }
    plan, result = stand_in("table4", found, tmp_path, monkeypatch)
    table, comparison, curve = result.tables
    assert curve.head == ["blocks", "step 4", "step 8", "step 12", "step 16"]
    assert curve.rows[2] == ["residual", "3.338", "2.076", "1.702", "1.522"]
    assert [row[0] for row in table.rows] == ["coupling", "coupling + 1×1 convolution", "residual"]
    assert table.rows[2][1:] == ["90.5 ± 0.5", "1.005 ± 0.005", "90.5 ± 0.5", "1.005 ± 0.005", "90.5 ± 0.5"]
    verdicts = {tuple(row[:3]): row[4] for row in comparison.rows}
    assert verdicts["coupling", "1/D", "bits/dim"] == "reproduced"
    assert verdicts["coupling + 1×1 convolution", "1", "bits/dim"] == "contradicted"
    assert verdicts["coupling", "0", "accuracy, per cent"] == "not resolved"
    assert ("coupling", "0", "bits/dim") not in verdicts
    assert "residual blocks minus couplings is -0.500 ± 0.000 bits/dim: reproduced" in result.findings[0]
    assert result.findings[-2].startswith("Of 10 comparisons")
    assert "is -0.500 bits/dim after 4 steps and -0.500 after 16" in result.findings[-1]
    assert result.training_seconds == 18 * 30
    page = markdown(EXPERIMENTS["table4"], plan, result)
    assert "| residual | 99.53 | 1.01 | 99.46 | 0.99 | 98.69 |" in page


def test_longer_runs_have_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = {"residual": 1.0, "coupling": 1.5, "coupling_conv1x1": 1.5}
    found = {
        label: [finished(tmp_path / label / str(seed), seed, bits[label.split("-")[0]], 0.9) for seed in range(2)]
        for label in EXPERIMENTS["table4"].reduced.recipes()
    }
    for seed in range(2):
        found[f"residual-1_d{LONG}"][seed] = finished(tmp_path / "long" / str(seed), seed, 3.0 + seed / 100, 0.8)
    _, result = stand_in("table4", found, tmp_path, monkeypatch)
    _, comparison, longer, curve = result.tables
    assert longer.rows[2] == ["residual", "3.005 ± 0.005", "80.0 ± 0.0"]
    verdicts = {tuple(row[:3]): row[4] for row in comparison.rows}
    assert verdicts["coupling", "1/D", "bits/dim"] == "reproduced"
    assert verdicts["coupling", "1/D, four times the steps", "bits/dim"] == "contradicted"
    assert curve.rows[2][-1] == "3.522"  # of the longer runs
    assert any("With λ = 1/D, four times the steps, residual blocks" in line for line in result.findings)


def test_a_run_that_failed_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        f"{block}-{weight}": [
            finished(
                tmp_path / block / weight / str(seed), seed, 1.0, 0.9, "TrainingError" if block == "residual" else ""
            )
            for seed in range(2)
        ]
        for block in BLOCKS
        for weight in WEIGHTS
    }
    _, result = stand_in("table4", found, tmp_path, monkeypatch)
    assert result.tables[0].rows[2][1:] == ["–"] * 5
    assert result.tables[1].rows == []
    assert result.findings[0] == "No comparison is possible, since runs failed."


def test_few_labels_and_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gain = {10: 0.2, 100: 0.0, 1000: -0.1}
    found = {
        f"{count}-{kind}": [
            finished(
                tmp_path / str(count) / kind / str(seed), seed, 2.0, 0.5 + seed / 100 + gain[count] * (kind == "hybrid")
            )
            for seed in range(2)
        ]
        for count in COUNTS
        for kind in KINDS
    }
    _, result = stand_in("semi_supervised", found, tmp_path, monkeypatch)
    rows = result.tables[0].rows
    assert [row[0] for row in rows] == ["10", "100", "1,000"]
    assert rows[0][1:3] == ["50.5 ± 0.5", "70.5 ± 0.5"]
    assert rows[0][3].endswith("(reproduced)")
    assert rows[2][3].endswith("(contradicted)")
    assert (tmp_path / "semi_supervised.png").stat().st_size > 3000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", ["reduced", "full"])
def test_settings_differ_in_what_is_compared_alone(name: str, setting: str) -> None:
    recipes: Mapping[str, Recipe] = getattr(EXPERIMENTS[name], setting).recipes()
    compared = {
        "data": {"labels"},
        "objective": {"likelihood_weight"},
        "training": {"learning_rate"},
        "architecture": {"options"},
    }
    longer = [one.as_dict() for label, one in recipes.items() if label.endswith(LONG)]
    first, *others = (one.as_dict() for label, one in recipes.items() if not label.endswith(LONG))
    assert len(longer) == (len(BLOCKS) if name != "semi_supervised" and setting == "reduced" else 0)
    for one in longer:
        assert one["training"]["steps"] == 4 * first["training"]["steps"]
        one["training"] |= {key: first["training"][key] for key in ("steps", "warmup_steps")}
    others += longer
    for other in others:
        for key, value in first.items():
            if key in compared:
                left = {one: part for one, part in value.items() if one not in compared[key]}
                assert left == {one: part for one, part in other[key].items() if one not in compared[key]}
            else:
                assert value == other[key]
    assert len({json.dumps(one.as_dict()) for one in recipes.values()}) == len(recipes)
    expected = len(COUNTS) * len(KINDS) if name == "semi_supervised" else len(BLOCKS) * len(WEIGHTS)
    assert len(recipes) == expected + len(longer)


def test_blocks_and_weights_are_those_of_the_label() -> None:
    for label, recipe in EXPERIMENTS["table4"].reduced.recipes().items():
        block, weight = label.removesuffix(LONG).rsplit("-", 1)
        assert recipe.architecture.options["block"] == block
        assert recipe.objective == Hybrid(WEIGHTS[weight])
    for label, recipe in EXPERIMENTS["semi_supervised"].reduced.recipes().items():
        count, kind = label.split("-")
        assert recipe.data.labels == int(count)
        assert recipe.objective == Hybrid(KINDS[kind])


def test_one_run_end_to_end(tmp_path: Path) -> None:
    """A tiny flow through training to the scores that the tables read."""
    recipe = EXPERIMENTS["table4"].reduced.recipes()["coupling-1_d"]
    recipe.architecture.options |= {"blocks": [1], "hidden": 4, "branch_features": 4}
    recipe.training.steps, recipe.training.validate_every = 2, 0
    recipe.data.limit, recipe.evaluation.limit, recipe.evaluation.samples = 70, 10, 1
    plan = Plan("tiny", Setting("Tiny.", "tiny", lambda: {"one": recipe}), out=tmp_path)
    run = plan.run("one", 0)
    report = json.loads((run.folder / "evaluation.json").read_text())
    assert report["value"] == run.value
    assert report["classification"]["rows"] == 10
    assert dataclasses.replace(plan).run("one", 0) == run
