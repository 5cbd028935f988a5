"""The comparison: one budget, finished runs kept, failing ones reported, sums right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import contraflow.runs.compare as module
from contraflow.cli import main
from contraflow.errors import ConfigurationError, OutputError, TrainingError
from contraflow.runs.compare import run_comparison, seconds_a_step
from contraflow.runs.compare_page import summarise, write_comparison
from contraflow.runs.compare_plan import Budget, Comparison, RateSearch
from contraflow.runs.measurement import RunResult
from contraflow.runs.recipes import RECIPES, with_architecture

pytest.importorskip("zuko", reason="the extra zuko is not installed")
PLAN = Comparison(("checkerboard",), ("made", "residual_flow_mnist"), Budget(steps=3), seeds=2, limit=50)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    return out, *run_comparison(PLAN, out)


def test_every_run_is_measured_and_a_failing_one_reported(done):
    _, results, failures = done
    assert [(one.architecture, one.seed, one.steps, one.rows) for one in results] == [
        ("made", 0, 3, 50),
        ("made", 1, 3, 50),
    ]
    assert [(one.architecture, one.seed) for one in failures] == [
        ("residual_flow_mnist", 0),
        ("residual_flow_mnist", 1),
    ]
    assert all("takes images" in one.error for one in failures)
    assert results[0].value != results[1].value
    for one in results:
        assert one.truth > one.value
        assert one.inverse_error < 1e-3
        assert one.seconds_a_step > 0
        assert one.sampling_seconds > 0


def test_finished_runs_are_not_trained_again(done, monkeypatch):
    out, results, _ = done
    monkeypatch.setattr(module, "run_recipe", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(module, "seconds_a_step", lambda recipe, **_: pytest.fail(f"timed again: {recipe}"))
    plan = Comparison(PLAN.recipes, ("made",), PLAN.budget, PLAN.seeds, PLAN.limit)
    assert run_comparison(plan, out) == (results, [])


def test_runs_validated_on_other_rows_are_not_mixed(done):
    out, _, _ = done
    with pytest.raises(OutputError, match="'validation': 20"):
        run_comparison(replace(PLAN, validation=20), out)


def test_an_unfinished_run_goes_on_from_its_checkpoint(done):
    out, results, _ = done
    (out / "checkerboard" / "made" / "seed-1" / "result.json").unlink()
    plan = Comparison(PLAN.recipes, ("made",), PLAN.budget, PLAN.seeds, PLAN.limit)
    again = run_comparison(plan, out)[0]
    assert again[1].value == results[1].value


def test_runs_of_another_budget_are_not_mixed_in(done):
    out, *_ = done
    with pytest.raises(OutputError, match="Choose another --out"):
        run_comparison(Comparison(PLAN.recipes, PLAN.architectures, Budget(steps=4), limit=50), out)
    with pytest.raises(OutputError, match="Choose another --out"):
        run_comparison(Comparison(PLAN.recipes, PLAN.architectures, PLAN.budget, limit=51), out)


def test_the_command_prints_and_writes_the_comparison(done, capsys):
    out, results, _ = done
    arguments = ["checkerboard", "--architectures", "made,residual_flow_mnist", "--steps", "3", "--limit", "50"]
    assert main(["compare", *arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.strip() == (out / "comparison.md").read_text().strip()
    assert f"| `made` | {sum(one.value for one in results) / 2:.3f} ± " in text
    assert "| `residual_flow_mnist`, seed 1 | failed: ShapeError" in text
    assert "Budget of a run: 3 steps" in text
    found = json.loads((out / "comparison.json").read_text())
    assert [one["value"] for one in found["runs"]] == [one.value for one in results]
    assert len(found["failures"]) == 2
    for name in ("checkerboard.png", "checkerboard-densities.png"):
        assert f"]({name})" in text
        assert (out / name).stat().st_size > 1000


def test_the_best_multiple_of_the_learning_rate_is_taken(tmp_path, monkeypatch):
    search = RateSearch((0.001, 1, 1e30))
    plan = Comparison(("checkerboard",), ("made",), Budget(steps=30), seeds=1, limit=50, rates=search)
    ((one,), failures) = run_comparison(plan, tmp_path)
    assert failures == []
    found = json.loads((tmp_path / "checkerboard" / "made" / "rate.json").read_text())
    scores = [float(score) for score in found["scores"]]
    assert len(set(scores)) == 3
    assert scores[2] == -float("inf"), "1e30 diverges"
    assert found["multiple"] == search.multiples[scores.index(max(scores))]
    own = with_architecture(RECIPES["checkerboard"](), "made").training.learning_rate
    assert one.learning_rate == found["multiple"] * own
    text = write_comparison(plan, [one], [], tmp_path)
    assert "the best of 0.001, 1, 1e+30 times its own rate on validation rows after 10% of the steps" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| `made`")]
    assert f"| {one.learning_rate:g} | 1 |" in line

    monkeypatch.setattr(module, "best_validation", lambda *_: pytest.fail("chosen again"))
    assert run_comparison(plan, tmp_path)[0] == [one]
    (tmp_path / "checkerboard" / "made" / "seed-0" / "result.json").unlink()
    with pytest.raises(OutputError, match="Choose another --out"):
        run_comparison(replace(plan, rates=RateSearch((1.0, 2.0))), tmp_path)
    with pytest.raises(OutputError, match="Choose another --out"):
        run_comparison(replace(plan, rates=replace(search, trial=0.5)), tmp_path)


@pytest.mark.parametrize("on", [None, "rings"])
def test_the_trials_that_choose_a_rate(on, tmp_path, monkeypatch):
    """Seed 0, a share of the steps, one validation, on the recipe that is asked for; a failing one is the worst."""
    seen = []

    def best_validation(recipe, out):
        training = recipe.training
        seen.append((recipe.recipe, recipe.seed, training.steps, training.validate_every, training.learning_rate))
        if len(seen) == 1:
            raise TrainingError("the loss is NaN")
        return -1e9 * training.learning_rate

    monkeypatch.setattr(module, "best_validation", best_validation)
    search = RateSearch((0.5, 1.0, 2.0), 0.25, on)
    plan = Comparison(("moons", "rings"), ("made",), Budget(steps=200), rates=search)
    own = with_architecture(RECIPES["moons"](), "made").training.learning_rate
    for name, best, trials in (("moons", 1.0, 3), ("rings", 1.0, 3) if on else ("rings", 0.5, 6)):
        assert module.chosen_multiple(plan, name, "made", tmp_path, module.Silent()) == best
        assert len(seen) == trials
    assert seen[:3] == [(on or "moons", 0, 50, 50, own * multiple) for multiple in search.multiples]
    assert module.chosen_multiple(replace(plan, rates=RateSearch((0.5,))), "moons", "made", tmp_path, None) == 0.5


def result(seed: int, value: float, error: float | None = 0.1, inverse: float | None = 1e-5) -> RunResult:
    return RunResult("rings", "maf", seed, value, error, "nats", 9, -1.0, 7, 5, 0.1, 0.2, inverse, 1e-3)


def test_sums_over_seeds():
    (one,) = summarise([result(0, -2.0, 0.1, 1e-6), result(1, -4.0, 0.3, 1e-4)])
    assert (one.value, one.data_error, one.below_truth, one.runs) == (-3.0, pytest.approx(0.2), 2.0, 2)
    assert one.seed_error == pytest.approx(2**0.5 / 2**0.5)
    assert one.inverse_error == 1e-4
    (alone,) = summarise([result(0, -2.0, None, None)])
    assert (alone.seed_error, alone.data_error, alone.inverse_error) == (None, None, None)
    (partly,) = summarise([result(0, -2.0), result(1, -2.0, inverse=None)])
    assert partly.inverse_error is None, "one failed inverse is a failed inverse"


def test_a_recipe_without_a_single_finished_run(tmp_path: Path):
    failure = module.Failure("rings", "maf", 0, "RuntimeError: a | b\nc")
    plan = Comparison(("rings",), ("maf",), Budget(seconds=2), seeds=1)
    text = write_comparison(plan, [], [failure], tmp_path)
    assert "| `maf`, seed 0 | failed: RuntimeError: a \\| b c |" in text
    assert "Budget of a run: 2 seconds of processor time" in text


def test_budgets():
    assert Budget(seconds=10).steps_at(0.03) == 333
    assert Budget(seconds=0.01).steps_at(1.0) == 1
    assert Budget(steps=7).steps_at(100.0) == 7
    for wrong in ({}, {"seconds": 1, "steps": 1}, {"seconds": -1}, {"steps": 0}):
        with pytest.raises(ConfigurationError, match="give one budget"):
            Budget(**wrong)


def test_the_cosine_ends_with_the_budget_and_little_of_it_is_warm_up():
    training = module.within(RECIPES["toy_paper"](), 50).training
    assert training.warmup_steps == 0
    assert training.schedule == "cosine"
    training = module.within(RECIPES["checkerboard"](), 50).training
    assert (training.steps, training.warmup_steps, training.validate_every) == (50, 5, 5)
    assert training.learning_rate_at(49) < 0.01 * training.learning_rate


@pytest.mark.parametrize(("at_most", "steps"), [(None, 20), (9.9, 20), (5.0, 10), (0.1, 1)])
def test_steps_are_timed_in_processor_time(at_most, steps, monkeypatch):
    """Twenty after the untimed ones, here of half a second each, or the first that spend the budget."""
    clock = iter(0.5 * tick for tick in range(steps + 1))
    monkeypatch.setattr(module.time, "process_time", lambda: next(clock))
    recipe = RECIPES["checkerboard"]()
    recipe.architecture.options = {"blocks": 1, "hidden": [4]}
    recipe.training.batch_size = 4
    assert seconds_a_step(recipe, at_most) == 0.5
    assert next(clock, None) is None


def test_rows_that_are_scored():
    """Of the test set and on the way, asked for or the recipe's own."""
    plan = Comparison(("mnist",), ("nice",), Budget(steps=1), limit=7, validation=5)
    recipe = module._recipe(plan, "mnist", "nice", seed=0)
    assert (recipe.evaluation.limit, recipe.training.validation_size) == (7, 5)
    recipe = module._recipe(replace(plan, limit=None, validation=None), "mnist", "nice", seed=0)
    assert (recipe.evaluation.limit, recipe.training.validation_size) == (None, 1000)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["checkerbord", "--architectures", "maf"], "Did you mean 'checkerboard'"),
        (["checkerboard", "--architectures", "mef"], "Did you mean 'maf'"),
        (["checkerboard"], "no architecture to compare"),
        (
            ["checkerboard", "--architectures", "maf", "--steps", "2", "--minutes", "1"],
            "minutes=1.0, steps=2: give only one",
        ),
        (["checkerboard", "--architectures", "maf", "--seeds", "0"], "seeds=0"),
        (["checkerboard", "--architectures", "maf", "--validation", "0"], "validation=0"),
        (["checkerboard", "--architectures", "maf", "--rates", "1,-2"], "expected positive multiples"),
        (["checkerboard", "--architectures", "maf", "--trial", "2"], "trial=2.0: expected a share"),
        (["checkerboard", "--architectures", "maf", "--rates-on", "ring"], "Did you mean 'rings'"),
        (["checkerboard", "--architectures", "maf", "--rates", "1;2"], "rates=1;2: expected numbers"),
    ],
)
def test_what_the_command_refuses(arguments, match, capsys):
    assert main(["compare", *arguments]) == 2
    assert match in capsys.readouterr().err
