"""What a run saves, evaluates and samples with stays within its target; its certificate is stored and shown."""

from __future__ import annotations

import json

import pytest
import torch

from contraflow import residual_flow, update_lipschitz
from contraflow.cli.main import main
from contraflow.errors import CheckpointError
from contraflow.evaluation import EstimatedScore, Scores, compare_scores, score
from contraflow.lipschitz import largest_rescaling, norm_orders
from contraflow.runs import RECIPES, load_run, run_recipe
from contraflow.runs.build import load_data
from contraflow.training import TrainingSettings, TrainingState, load_checkpoint, train
from contraflow.training.average import with_weights


def tiny_recipe(**training):
    recipe = RECIPES["digits"]()
    recipe.architecture.options = {"blocks": [1, 1], "hidden": 4, "dense_blocks": 1, "dense_hidden": 4}
    settings = {"steps": 6, "warmup_steps": 0, "validate_every": 0, "learning_rate": 5e-2, "batch_size": 16} | training
    for name, value in settings.items():
        setattr(recipe.training, name, value)
    recipe.evaluation.limit, recipe.evaluation.samples, recipe.evaluation.draws = 8, 2, 1
    return recipe


@pytest.mark.parametrize("certified", [False, True])
def test_a_run_saves_the_certificate_of_what_it_evaluates(tmp_path, capsys, certified):
    outcome = run_recipe(tiny_recipe(certified=certified), tmp_path / "run")
    assert outcome.flow.certify().within_target
    loaded = load_run(tmp_path / "run").flow.certify()
    assert loaded.within_target
    stored = load_checkpoint(tmp_path / "run").certificate
    assert stored == json.loads(json.dumps(loaded.as_dict()))
    assert main(["certify", str(tmp_path / "run"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("step") == 6
    assert shown == stored
    assert main(["certify", str(tmp_path / "run")]) == 0
    assert "every block is proved invertible" in capsys.readouterr().out


def test_a_checkpoint_without_a_certificate_loads_and_a_damaged_one_does_not(tmp_path):
    run_recipe(tiny_recipe(steps=1), tmp_path / "run")
    folder = load_checkpoint(tmp_path / "run").path
    certificate = folder / "certificate.json"
    certificate.write_text(certificate.read_text().replace("0.98", "0.88", 1))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "run")
    certificate.unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["certificate.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_checkpoint(tmp_path / "run").certificate is None


def test_a_certified_run_resumes_exactly(tmp_path):
    """The certified factors are no state: they follow from weights and v alone."""
    constant = {"certified": True, "schedule": "constant", "log_every": 1}
    run_recipe(tiny_recipe(**constant), tmp_path / "whole")
    run_recipe(tiny_recipe(**constant, steps=3), tmp_path / "parts")
    run_recipe(tiny_recipe(**constant), tmp_path / "parts", resume=True)
    whole, parts = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert len(whole) == 6
    assert parts == whole


@pytest.mark.parametrize("certified", [False, True])
def test_the_weights_of_every_step_stay_within_their_target_where_the_setting_asks_for_it(monkeypatch, certified):
    torch.manual_seed(0)
    flow = residual_flow((3,), blocks=3, hidden=(16, 16))
    data = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).exp()
    settings = TrainingSettings(steps=40, batch_size=50, learning_rate=1e-1, warmup_steps=0, certified=certified)
    state = TrainingState.begin(flow, settings, 0)
    kept = []

    def watched(flow, **options):
        update_lipschitz(flow, **options)
        kept.append(flow.certify().within_target)

    monkeypatch.setattr("contraflow.training.loop.update_lipschitz", watched)
    for _ in train(state, data, settings):
        assert with_weights(flow, state.evaluation_weights()).certify().within_target
    assert len(kept) == 40
    assert all(kept) == certified


def learned_recipe(kind, **training):
    recipe = RECIPES["checkerboard_norms"]()
    recipe.architecture.options, recipe.architecture.norms.kind = {"blocks": 2, "hidden": [8, 8]}, kind
    settings = {"steps": 6, "schedule": "constant", "warmup_steps": 0, "log_every": 1, "learning_rate": 5e-2} | training
    for name, value in settings.items():
        setattr(recipe.training, name, value)
    recipe.training.batch_size, recipe.training.validate_every = 50, 0
    recipe.evaluation.limit, recipe.evaluation.samples = 8, 2
    return recipe


@pytest.mark.parametrize("kind", ["learned", "learned_shared"])
def test_a_run_with_learned_orders_saves_loads_and_resumes_exactly(tmp_path, capsys, kind):
    whole = run_recipe(learned_recipe(kind), tmp_path / "whole").flow
    run_recipe(learned_recipe(kind, steps=3), tmp_path / "parts")
    parts = run_recipe(learned_recipe(kind), tmp_path / "parts", resume=True).flow
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert norm_orders(whole) == norm_orders(parts) == norm_orders(load_run(tmp_path / "whole").flow)
    orders = next(iter(norm_orders(whole).blocks.values()))
    assert len(set(orders)) == (1 if kind == "learned_shared" else 3)
    assert max(abs(p - 2) for p in orders) > 1e-3
    assert load_run(tmp_path / "whole").flow.certify().within_target
    assert (tmp_path / "whole" / "norm-orders.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    picture = tmp_path / "orders.png"
    assert main(["certify", str(tmp_path / "whole"), "--orders", str(picture)]) == 0
    assert f"{orders[0]:.4g} → {orders[1]:.4g}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["certify", str(tmp_path / "whole"), "--orders", str(tmp_path / "none" / "orders.png")]) == 2
    assert "orders.png" in capsys.readouterr().err
    assert main(["certify", str(tmp_path / "whole"), "--orders", str(tmp_path / "orders.pdf")]) == 2


def test_mixed_norms_from_the_command_line(tmp_path, capsys):
    small = ["architecture.options.blocks=1", "architecture.options.hidden=[8]", "training.steps=2"]
    small += ["evaluation.limit=4", "evaluation.samples=2", "training.validate_every=0", "training.certified=true"]
    norms = ["architecture.norms.kind=mixed", "architecture.norms.orders=[.inf,1.8,.inf]"]
    out = tmp_path / "run"
    assert main(["train", "checkerboard", "--out", str(out), *small, *norms]) == 0
    assert main(["train", "--resume", str(out), "training.steps=3"]) == 0
    assert load_run(out).recipe.architecture.norms.orders == [float("inf"), 1.8, float("inf")]
    assert main(["certify", str(out)]) == 0
    assert "∞ → 1.8" in capsys.readouterr().out
    for wrong, message in (
        (["architecture.norms.kind=mixed"], "mixed norms need orders"),
        (["architecture.norms.kind=learned", "architecture.norms.orders=[2,2,2]"], "other kinds take none"),
        (["architecture.norms.kind=mixed", "architecture.norms.orders=[1,2,2]"], "do not close"),
        (["architecture.norms.kind=mixed", "architecture.norms.orders=[2,2,2,2]"], "3 layers; this one has 2"),
        (["architecture.norms.kind=median"], "median"),
    ):
        assert main(["train", "checkerboard", "--out", str(tmp_path / "wrong"), *small, *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


def test_a_run_under_loose_norms_is_scored_by_estimates_too(tmp_path, capsys):
    """Both scores in JSON and in the output, of the same rows with the same noise; one score under spectral norms."""
    recipe = learned_recipe("learned", steps=30, learning_rate=5e-2, certified=False)
    recipe.evaluation.limit = 100
    outcome = run_recipe(recipe, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    estimated = load_run(tmp_path / "run", certified=False).flow
    assert not estimated.certify().within_target
    assert largest_rescaling(outcome.flow, estimated) > 1e-3
    seeded = lambda: torch.Generator().manual_seed(recipe.seed)  # noqa: E731
    rows = load_data(recipe.data, recipe.seed).test[:100]
    settings = {"estimator": recipe.evaluation.estimator, "draws": recipe.evaluation.draws}
    ours, theirs = (
        score(flow, rows, generator=seeded(), **settings).log_prob.double() for flow in (estimated, outcome.flow)
    )
    assert stored["by_estimates"]["value"] == pytest.approx(ours.mean().item(), abs=1e-6)
    assert stored["value"] == pytest.approx(theirs.mean().item(), abs=1e-6)
    assert stored["by_estimates"]["difference"] == pytest.approx((theirs - ours).mean().item(), abs=1e-6)
    error = (theirs - ours).std().item() / 10
    assert stored["by_estimates"]["difference_error"] == pytest.approx(error, rel=1e-3)
    capsys.readouterr()
    command = ["evaluate", str(tmp_path / "run"), "--exact", "--limit", "100"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    evaluated = EstimatedScore(**json.loads(capsys.readouterr().out)["by_estimates"])
    assert (str(evaluated) in printed) == evaluated.differs
    spectral = run_recipe(tiny_recipe(), tmp_path / "spectral")
    assert spectral.by_estimates is None
    assert json.loads((tmp_path / "spectral" / "evaluation.json").read_text())["by_estimates"] is None


def test_scores_differ_by_more_than_twice_the_error_of_their_difference():
    flow = residual_flow((2,), blocks=1, hidden=(4,))
    estimated = torch.randn(50, dtype=torch.float64)
    for shift, noise, differs in ((-0.1, 0.0, True), (-0.01, 1.0, False)):
        certified = estimated + shift + noise * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(25)
        none = torch.zeros(50, dtype=torch.float64)
        ours, theirs = (Scores(one, none, 1, none.long(), none.bool()) for one in (certified, estimated))
        found = compare_scores(flow, ours, theirs)
        assert found.value == pytest.approx(estimated.mean().item())
        assert found.difference == pytest.approx((certified - estimated).mean().item())
        assert found.differs == differs
        assert f"changes the score by {found.difference:+.3f} ± {found.difference_error:.3f}" in str(found)
