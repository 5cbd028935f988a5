"""Experiments: pages say what was run, runs are kept and never mixed up, differences are judged by their errors."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path

import pytest
import torch
from scipy import stats

import experiments.paper.plan as module
from contraflow.cli.train import parse_training
from contraflow.errors import ConfigurationError, OutputError, TrainingError
from contraflow.runs import RECIPES, Recipe
from contraflow.runs.command import command
from experiments.paper import EXPERIMENTS, Claim, Experiment, Picture, Plan, Result, Setting, Table, reproduce
from experiments.paper.__main__ import main
from experiments.paper.page import index, markdown, write_page
from experiments.paper.paired import Difference, mean_and_error, verdict, with_error


def tiny() -> dict[str, Recipe]:
    recipe = RECIPES["checkerboard"]()
    recipe.architecture.options = {"blocks": 1, "hidden": [4]}
    recipe.training.steps, recipe.training.warmup_steps, recipe.training.validate_every = 3, 0, 0
    recipe.data.limit, recipe.evaluation.limit, recipe.evaluation.samples = 40, 30, 5
    return {"small": recipe}


SETTING = Setting("Three steps.", "tiny", tiny, seeds=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan = Plan("fig99", SETTING, seeds=2, out=tmp_path_factory.mktemp("reproduction"))
    plan.runs()
    return plan


def test_runs_are_ordinary_and_of_their_seeds(trained: Plan) -> None:
    (label, runs), *_ = trained.runs().items()
    assert (label, [one.seed for one in runs]) == ("small", [0, 1])
    assert runs[0].value != runs[1].value
    for one in runs:
        assert one.folder == trained.out / "runs" / "tiny" / "small" / f"seed-{one.seed}"
        assert json.loads((one.folder / "evaluation.json").read_text())["value"] == one.value
        assert (one.unit, one.rows, one.failure) == ("nats", 30, "")
        assert one.training_seconds > 0
        assert one.flow().event_shape == (2,)


def test_finished_runs_are_not_trained_again(trained: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trained.runs()
    monkeypatch.setattr(module, "run_recipe", lambda *_, **__: pytest.fail("trained again"))
    assert trained.runs() == before
    with pytest.raises(pytest.fail.Exception):
        dataclasses.replace(trained, seeds=3).runs()


def test_an_interrupted_run_goes_on(trained: Plan) -> None:
    before = trained.run("small", 0)
    (before.folder / "run.json").unlink()
    assert trained.run("small", 0).value == before.value


def test_runs_of_another_recipe_are_refused(trained: Plan) -> None:
    def other() -> dict[str, Recipe]:
        recipes = tiny()
        recipes["small"].training.learning_rate = 0.5
        recipes["small"].architecture.options["blocks"] = 2
        return recipes

    plan = dataclasses.replace(trained, setting=Setting("Other.", "tiny", other))
    with pytest.raises(OutputError, match=r"architecture\.options, training\.learning_rate differ"):
        plan.runs()
    elsewhere = dataclasses.replace(trained, root="/another/place")
    assert elsewhere.run("small", 0) == trained.run("small", 0), "where the data lie is no other recipe"


def test_a_run_that_fails_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(recipe: Recipe, folder: Path, **_: object) -> None:
        folder.mkdir(parents=True)
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(module, "run_recipe", fails)
    run = Plan("fig99", SETTING, out=tmp_path).run("small", 0)
    assert (run.value, run.failure) == (None, "TrainingError: the loss is nan")


def test_a_budget_in_seconds_gives_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "steps_within", lambda budget, recipe, folder: (int(budget.seconds * 10), 0.1))
    plan = Plan("fig99", SETTING, budget="4", out=tmp_path)
    recipe = plan.recipe("small", 1)
    assert (recipe.training.steps, recipe.training.schedule, recipe.seed) == (40, "cosine", 1)
    assert plan.folder("small", 1) == tmp_path / "runs" / "tiny-4" / "small" / "seed-1"
    for wrong in ("much", "-3", "0", "inf", "nan"):
        with pytest.raises(ConfigurationError, match=f"budget={wrong}: it must be"):
            Plan("fig99", SETTING, budget=wrong)
    with pytest.raises(ConfigurationError, match="seeds=0"):
        Plan("fig99", SETTING, seeds=0)


RESULT = Result(
    tables=(Table(("method", "bits/dim"), (("ours", "1.0 ± 0.1"),), "A caption."),),
    findings=("It is so.", "And so."),
    pictures=(Picture("fig99.png", "Look here."),),
    values={"ours": 1.0},
    training_seconds=120,
)
EXPERIMENT = Experiment(
    "a test",
    (Claim("One thing", "Table 1"), Claim("Another", "Table 9")),
    SETTING,
    Setting("For a GPU.", "tiny", lambda: {"big": RECIPES["mnist_paper"]()}),
    lambda plan: RESULT,
    published=(Table(("model", "FID"), (("GAN", "12.3"),), "As printed."),),
)


def test_the_page_says_what_was_claimed_run_and_found(tmp_path: Path) -> None:
    plan = Plan("fig99", SETTING, seeds=3, out=tmp_path)
    text = write_page(EXPERIMENT, plan, RESULT)
    assert (tmp_path / "fig99.md").read_text() == text
    for part in (
        "# fig99: a test\n",
        "`python -m experiments.paper fig99 --seeds 3`",
        "- One thing (Table 1)\n- Another (Table 9)\n",
        "As printed.\n\n| model | FID |\n| --- | --- |\n| GAN | 12.3 |\n",
        "**Reduced.** Three steps.",
        "Seeds 0 to 2; 2 minutes of training steps in total (wall clock, ",
        "- It is so.\n- And so.\n",
        "A caption.\n\n| method | bits/dim |\n| --- | --- |\n| ours | 1.0 ± 0.1 |\n",
        "![fig99](fig99.png)\n\nLook here.",
        "For a GPU.\n\n```bash\ncontraflow train mnist_paper --out runs/big\n```",
    ):
        assert part in text, part
    values = json.loads((tmp_path / "fig99.json").read_text())
    assert (values["setting"], values["seeds"], values["values"]) == ("reduced", 3, {"ours": 1.0})
    assert values["tables"][0]["rows"] == [["ours", "1.0 ± 0.1"]]
    assert "| [fig99](fig99.md) | a test | reduced, 3 seeds | It is so. |" in (tmp_path / "README.md").read_text()
    write_page(EXPERIMENT, dataclasses.replace(plan, name="fig100"), dataclasses.replace(RESULT, findings=("|a| > 0",)))
    rows = index(tmp_path).splitlines()[-2:]
    assert [row.split("]")[0] for row in rows] == ["| [fig99", "| [fig100"]
    assert rows[1].endswith("| &#124;a&#124; > 0 |")


def test_other_settings_are_named_on_the_page(tmp_path: Path) -> None:
    text = markdown(EXPERIMENT, Plan("fig99", SETTING, budget="90", seeds=2, out=tmp_path), RESULT)
    assert "`python -m experiments.paper fig99 --budget 90`" in text
    assert "**90.** Three steps. The training steps of each run took 90 s of processor time." in text


def test_student_interval_of_paired_differences() -> None:
    a, b = [1.0, 2.0, 3.5], [0.5, 1.8, 2.9]
    found = Difference.of(a, b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    coarse = Difference.of([0.9, 0.9], [0.8, 0.8], grain=0.1)  # no spread: of rounding alone, t(0.975, 1) = 12.706
    assert coarse.half_width == pytest.approx(12.706 * math.sqrt(0.1**2 / 6 / 2), rel=1e-4)
    assert not coarse.resolved
    assert math.isinf(Difference.of([1.0], [0.0]).half_width)
    assert not Difference.of([1.0], [0.0]).resolved
    assert str(Difference.of([1.0], [0.0])) == "+1.000 (one seed)"


def test_the_interval_covers_as_often_as_it_says() -> None:
    """2,000 differences of mean zero: 95 % of the intervals hold it, to within four standard errors (6e-5)."""
    draws = torch.randn(2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    missed = sum(Difference.of(one, [0.0] * 4).resolved for one in draws.tolist())
    assert abs(missed - 100) < 4 * math.sqrt(2000 * 0.05 * 0.95)


def test_verdicts() -> None:
    assert verdict(Difference(-0.2, 0.1), -1) == verdict(Difference(0.2, 0.1), 1) == "reproduced"
    assert verdict(Difference(0.2, 0.1), -1) == "contradicted"
    assert verdict(Difference(0.1, 0.2), -1) == "not resolved"
    assert mean_and_error([1.0]) == (1.0, None)
    assert with_error([1.0, 1.2], 1) == "1.1 ± 0.1"


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in EXPERIMENTS)
    assert main(["fig44", "--out", str(tmp_path)]) == 2
    assert "fig4" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["fig4", "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_writes_the_page_it_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["fig4", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "fig4.md").read_text().strip()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_setting_is_of_recipes_that_build(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.claims
    for setting in (experiment.reduced, experiment.full):
        recipes = setting.recipes()
        assert bool(recipes) == bool(setting.family)
        assert all(label == label.lower() for label in recipes)
        for label, recipe in list(recipes.items())[:: max(1, len(recipes) // 2)]:  # parsing takes its time
            words = shlex.split(command(recipe, label))
            assert parse_training(words[2:])[0] == recipe


def test_unknown_experiments_are_named() -> None:
    with pytest.raises(ConfigurationError, match="fig4"):
        reproduce("figure4")
