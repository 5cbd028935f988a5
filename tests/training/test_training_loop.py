"""The loop: it learns, repeats, averages, decays, clips, and stops with a name when it cannot go on."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contraflow import residual_flow
from contraflow.architectures import ARCHITECTURES
from contraflow.data import load_dataset
from contraflow.errors import ConfigurationError, TrainingError
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzLayer
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import RECIPES, Recipe, load_run, run_recipe
from contraflow.training import PolyakAverage, TrainingSettings, TrainingState, load_checkpoint, train
from contraflow.training.average import with_weights

OPTIONS = {"blocks": [1, 1], "hidden": 8, "dense_blocks": 1, "dense_hidden": 8}


def toy_flow() -> Flow:
    torch.manual_seed(0)
    return residual_flow((2,), blocks=2, hidden=(8,))


def losses(settings: TrainingSettings, seed: int = 0, data: Tensor | None = None) -> list[float]:
    state = TrainingState.begin(toy_flow(), settings, seed)
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(5)) if data is None else data
    return [record.loss for record in train(state, data, settings)]


def test_it_learns_digits() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    assert data.levels == 17
    flow = ARCHITECTURES["residual_flow_digits"]((1, 8, 8), preprocessing=ImagePreprocessing(17), **OPTIONS)
    settings = TrainingSettings(steps=150, batch_size=32, learning_rate=2e-2, warmup_steps=5)
    state = TrainingState.begin(flow, settings, seed=0)
    found = [record.loss / (64 * math.log(2)) for record in train(state, data.train[:200], settings)]
    assert sum(found[:10]) / 10 - sum(found[-10:]) / 10 > 0.3
    assert state.epoch == 25  # six whole batches of 32 in 200 rows


def test_continuous_flows_train_with_their_training_solver() -> None:
    """NFE of two fields with three steps of Euler; penalties reach the gradient, not the loss that is recorded."""
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(5))
    settings = TrainingSettings(steps=2, batch_size=16, warmup_steps=0)
    options = {"hidden": (4,), "steps": 2, "divergence": "exact", "training_solver": "euler", "training_steps": 3}
    records = []
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        flow = ARCHITECTURES["ffjord"]((2,), adjoint=False, kinetic_weight=weight, **options)
        records.append(list(train(TrainingState.begin(flow, settings, 0), rows, settings)))
    assert [record.evaluations for run in records for record in run] == [6] * 4
    (plain, _), (penalised, _) = records
    assert plain.loss == pytest.approx(penalised.loss)
    assert penalised.gradient_norm > 2 * plain.gradient_norm


def test_the_same_seed_repeats_and_another_does_not() -> None:
    settings = TrainingSettings(steps=12, batch_size=16, warmup_steps=0)
    assert losses(settings) == losses(settings)
    assert losses(settings) != losses(settings, seed=1)


def test_the_callers_random_state_is_left_alone() -> None:
    settings = TrainingSettings(steps=2, batch_size=16, warmup_steps=0)
    before = torch.get_rng_state()
    state = TrainingState.begin(residual_flow((2,), blocks=1, hidden=(4,)), settings, 0)
    torch.set_rng_state(before)
    list(train(state, torch.zeros(20, 2).normal_(generator=torch.Generator().manual_seed(0)), settings))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_row_is_used_once_an_epoch() -> None:
    state = TrainingState.begin(toy_flow(), TrainingSettings(), 0)
    rows = torch.arange(12.0)[:, None]
    for epoch in (1, 2):
        seen = torch.cat([state.next_batch(rows, 4) for _ in range(3)]).flatten()
        assert state.epoch == epoch
        assert torch.equal(seen.sort().values, torch.arange(12.0))
    assert len(state.next_batch(rows[:3], 64)) == 3


def test_average_in_closed_form() -> None:
    flow = toy_flow()
    name, weight = next(iter(flow.named_parameters()))
    average = PolyakAverage(flow, decay=0.5)
    expected, values = weight.detach().clone(), []
    for step in range(1, 8):
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape))
        values.append(weight.detach().clone())
        average.update(flow, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values[-1]
    assert torch.allclose(average.weights[name], expected, atol=1e-6)
    assert not torch.equal(average.weights[name], values[-1])


def test_training_averages_after_every_step() -> None:
    settings = TrainingSettings(steps=3, batch_size=8, warmup_steps=0, polyak=0.9)
    state = TrainingState.begin(toy_flow(), settings, 0)
    expected = copy.deepcopy(state.average.weights)
    for record in train(state, torch.randn(20, 2), settings):
        decay = min(0.9, (1 + record.step) / (10 + record.step))
        for name, one in state.flow.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * one.detach()
    for name, one in expected.items():
        assert torch.allclose(state.average.weights[name], one, atol=1e-6)


def test_evaluation_weights_have_converged_power_iterations() -> None:
    flow = toy_flow()
    weights = {name: torch.randn_like(one) for name, one in flow.named_parameters()}
    before = copy.deepcopy(flow.state_dict())
    twin = with_weights(flow, weights)
    assert all(torch.equal(one, before[name]) for name, one in flow.state_dict().items()), "the original is untouched"
    layers = [one for one in twin.modules() if isinstance(one, LipschitzLayer)]
    assert layers
    for layer in layers:
        sigma = torch.linalg.matrix_norm(layer.weight.double(), 2).item()
        assert layer.sigma().item() == pytest.approx(sigma, rel=1e-4)
        assert not layer.weight.requires_grad
        assert torch.linalg.matrix_norm(layer.normalised().double(), 2).item() <= layer.bound * (1 + 1e-4)


def test_weight_decay_is_decoupled_and_real() -> None:
    settings = TrainingSettings(learning_rate=0.1, weight_decay=0.2, warmup_steps=0)
    state = TrainingState.begin(toy_flow(), settings, 0)
    before = [one.detach().clone() for one in state.flow.parameters()]
    for one in state.flow.parameters():
        one.grad = torch.zeros_like(one)
    state.optimiser.step()
    for old, new in zip(before, state.flow.parameters(), strict=True):
        assert torch.allclose(new, old * (1 - 0.1 * 0.2), rtol=1e-6)
    assert sum(one.abs().sum() for one in before) > 1


def test_learning_rates() -> None:
    constant = TrainingSettings(steps=100, learning_rate=2.0, warmup_steps=10)
    assert [constant.learning_rate_at(step) for step in (0, 4, 9, 10, 99)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainingSettings(steps=110, learning_rate=2.0, warmup_steps=10, schedule="cosine")
    assert [cosine.learning_rate_at(step) for step in (9, 10, 60, 110)] == pytest.approx([2.0, 2.0, 1.0, 0.0])
    settings = TrainingSettings(steps=6, batch_size=8, learning_rate=1e-3, warmup_steps=3, schedule="cosine")
    state = TrainingState.begin(toy_flow(), settings, 0)
    rates = []
    for record in train(state, torch.randn(20, 2), settings):
        assert state.optimiser.param_groups[0]["lr"] == record.learning_rate
        rates.append(record.learning_rate)
    assert rates == [settings.learning_rate_at(step) for step in range(6)]


def test_gradients_are_clipped_and_their_norm_reported() -> None:
    settings = TrainingSettings(steps=1, batch_size=20, warmup_steps=0, gradient_clip=1e-3)
    state = TrainingState.begin(toy_flow(), settings, 0)
    (record,) = train(state, 5 * torch.randn(20, 2), settings)
    norm = math.sqrt(sum(one.grad.square().sum().item() for one in state.flow.parameters() if one.grad is not None))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert record.gradient_norm > 2e-3


class Spoiled(nn.Module):
    """Wraps g's layer so that its output, or its gradient, stops being finite."""

    @staticmethod
    def bias(flow: Flow, block: int, value: float) -> str:
        networks = [(name, one) for name, one in flow.named_modules() if isinstance(one, LipschitzLayer)]
        name, layer = networks[2 * block]
        with torch.no_grad():
            layer.bias.fill_(value)
        return name


def test_a_loss_that_is_not_finite_names_the_first_block_with_a_non_finite_output() -> None:
    flow = toy_flow()
    flow.log_prob(torch.randn(20, 2))  # ActNorm takes its first batch
    name = Spoiled.bias(flow, 1, math.nan)
    state = TrainingState.begin(flow, TrainingSettings(steps=5), 0)
    with pytest.raises(TrainingError) as error:
        list(train(state, torch.randn(20, 2), TrainingSettings(steps=5)))
    block = name.split(".g.")[0] if ".g." in name else name.rsplit(".", 2)[0]
    assert f"first block with a non-finite output is {block}" in str(error.value)
    assert "bijections.3" in block, "the second residual block, after ActNorm, block, ActNorm"
    assert "step 0: the loss is nan" in str(error.value)
    assert "training.learning_rate" in str(error.value)
    assert state.step == 0


def test_a_gradient_that_is_not_finite_is_named_and_not_applied() -> None:
    flow = toy_flow()
    settings = TrainingSettings(steps=5, batch_size=8, warmup_steps=0)
    state = TrainingState.begin(flow, settings, 0)
    records = train(state, torch.randn(20, 2), settings)
    next(records)
    name, parameter = list(flow.named_parameters())[3]
    parameter.register_hook(lambda grad: grad * math.inf)
    before = {key: one.detach().clone() for key, one in flow.named_parameters()}
    with pytest.raises(
        TrainingError,
        match=rf"step 1: the gradient is (nan|inf).*The first parameter with a non-finite gradient is {name}\.",
    ):
        next(records)
    assert all(torch.equal(one, before[key]) for key, one in flow.named_parameters())


def tiny(**training: float) -> Recipe:
    recipe = RECIPES["digits"]()
    recipe.architecture.options = dict(OPTIONS)
    recipe.data.limit = 64
    recipe.evaluation.limit, recipe.evaluation.samples, recipe.evaluation.draws = 10, 4, 1
    settings = recipe.training
    settings.steps, settings.batch_size, settings.warmup_steps = 12, 16, 2
    settings.log_every, settings.checkpoint_every, settings.validate_every = 1, 4, 0
    settings.validation_size = 20
    for name, value in training.items():
        setattr(settings, name, value)
    return recipe


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = TrainingState.next_batch

    def spoil(state: TrainingState, data: Tensor, size: int) -> Tensor:
        if state.step == 9:
            Spoiled.bias(state.flow, 0, math.inf)
        return draw(state, data, size)

    monkeypatch.setattr(TrainingState, "next_batch", spoil)
    with pytest.raises(TrainingError, match="step 9"):
        run_recipe(tiny(), tmp_path / "run")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run").progress["step"] == 8
    assert load_run(tmp_path / "run").step == 8
    run_recipe(tiny(), tmp_path / "run", resume=True)
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))


def test_validation_keeps_the_best_and_leaves_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Negatives from step 6 on ruin what was learnt, so that the best is not the last.
    draw = TrainingState.next_batch

    def negatives(state: TrainingState, data: Tensor, size: int) -> Tensor:
        batch = draw(state, data, size)
        return 16 - batch if state.step >= 6 else batch

    monkeypatch.setattr(TrainingState, "next_batch", negatives)
    runs = {}
    for every in (0, 3):
        recipe = tiny(validate_every=every, learning_rate=0.05, schedule="constant", polyak=0.5)
        runs[every] = tmp_path / f"every-{every}"
        run_recipe(recipe, runs[every])
    assert [line["loss"] for line in log(runs[0])] == [line["loss"] for line in log(runs[3])]
    scores = {line["step"]: line["validation bits_per_dim"] for line in log(runs[3]) if len(line) > 9}
    assert list(scores) == [3, 6, 9, 12]
    checkpoint = load_checkpoint(runs[3])
    assert -checkpoint.progress["best_score"] / (64 * math.log(2)) == pytest.approx(min(scores.values()))
    assert load_checkpoint(runs[0]).group("best") == {}
    best, average = checkpoint.group("best"), checkpoint.group("average")
    is_last = min(scores, key=scores.__getitem__) == 12
    assert all(torch.equal(best[name], average[name]) for name in best) == is_last
    assert not is_last, "the test needs a run whose best is not its last"


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"gradient_clip": -1.0},
        {"polyak": 1.0},
        {"beta2": 1.5},
        {"weight_decay": -1e-9},
    ],
)
def test_settings_that_cannot_work(change: dict[str, float]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ConfigurationError, match=rf"training\.{name}={value}: it must be"):
        TrainingSettings(**change)  # type: ignore[arg-type]
