"""Hybrid training: the objective by hand, few labels, λ = 0, the log, exact resumption."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from contraflow import Exact, Flow, hybrid, residual_flow
from contraflow.architectures import HybridFlow
from contraflow.cli import main
from contraflow.errors import ConfigurationError, DomainError
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import RECIPES, load_run
from contraflow.runs.build import load_data, make_preprocessing, training_rows
from contraflow.training import Hybrid, Likelihood, TrainingSettings, TrainingState, train
from contraflow.training.objective import Batch

TINY = [
    'architecture.options={"blocks":[1,1],"hidden":6,"dense_blocks":0,"branch_features":6}',
    "training.steps=8",
    "training.warmup_steps=2",
    "training.batch_size=16",
    "training.log_every=1",
    "training.checkpoint_every=3",
    "training.validate_every=4",
    "training.validation_size=20",
    "data.limit=72",
    "evaluation.limit=30",
    "evaluation.samples=2",
    "evaluation.draws=1",
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def tiny(**changes: object) -> HybridFlow:
    torch.manual_seed(0)
    flow = hybrid((2,), **{"classes": 2, "blocks": (1,), "hidden": 8, "branch_features": 4, **changes})
    flow.log_prob(torch.randn(50, 2), torch.zeros(50, dtype=torch.long))  # sets ActNorm
    return flow.with_logdet(Exact())


def rows(n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 2, generator=seeded(5))
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_objective_by_hand(weight: float) -> None:
    flow, (x, y) = tiny(), rows()
    found = Hybrid(weight).terms(flow, Batch(x, y), seeded())
    expected = -weight * flow.log_prob(x).mean() + nn.functional.cross_entropy(flow.class_logits(x), y)
    torch.testing.assert_close(found.loss, expected)
    parameters = list(flow.parameters())
    for one, other in zip(
        torch.autograd.grad(found.loss, parameters, allow_unused=True, retain_graph=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert found.values.keys() == {"cross_entropy", "accuracy"} | ({"log_prob"} if weight else set())
    right = (flow.class_logits(x).argmax(1) == y).double().mean().item()
    assert found.values["accuracy"] == pytest.approx(right)


def test_the_scale_of_the_gradient() -> None:
    images = hybrid((1, 4, 4), blocks=(1,), hidden=4, dense_blocks=0, preprocessing=ImagePreprocessing(4))
    bits = 16 * math.log(2)
    assert Likelihood().scale(images) == pytest.approx(bits)
    assert Hybrid(1.0).scale(images) == pytest.approx(bits)
    assert Hybrid(1 / 16).scale(images) == 1
    assert Hybrid(0.0).scale(images) == 1
    assert Likelihood().scale(tiny()) == 2


def test_one_over_d_is_the_number_of_dimensions() -> None:
    assert Hybrid().weight(tiny()) == 0.5


def test_nothing_is_estimated_where_it_has_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, (x, y) = tiny(), rows()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a log-determinant at λ = 0")

    monkeypatch.setattr(type(flow), "log_prob_and_logits", refuse)
    monkeypatch.setattr(type(flow), "log_prob", refuse)
    assert Hybrid(0.0).terms(flow, Batch(x, y), seeded()).values["cross_entropy"] > 0


def test_the_network_is_run_once_a_step_where_all_labels_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, (x, y) = tiny(), rows()
    passes: list[int] = []
    original = type(flow)._enter

    def counted(self: Flow, *arguments: object) -> object:
        passes.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(type(flow), "_enter", counted)
    Hybrid(1.0).terms(flow, Batch(x, y), seeded())
    assert len(passes) == 1


def test_few_labels_weigh_as_much_as_many() -> None:
    """The second term is over labelled rows alone, drawn evenly; the first over all rows, labelled or not."""
    flow, (x, y) = tiny(), rows(200)
    known = torch.full_like(y, -1)
    known[[3, 50, 77]] = y[[3, 50, 77]]
    objective, generator, drawn = Hybrid(1.0), seeded(), []
    for _ in range(30):
        batch = objective.batch(x[:20], torch.arange(20), x, known, generator)
        assert batch.labelled is not None
        assert batch.labels is not None
        assert torch.equal(batch.x, x[:20])
        drawn += [int((x == row).all(1).nonzero()) for row in batch.labelled]
        assert torch.equal(batch.labels, y[drawn[-20:]])
    counts = torch.tensor(drawn).bincount(minlength=200)
    assert set(counts.nonzero().flatten().tolist()) == {3, 50, 77}
    # 600 draws of three rows: 200 each, within 4.5 standard deviations
    assert (counts[[3, 50, 77]] - 200).abs().max() < 4.5 * math.sqrt(600 * 2 / 9)
    found = objective.terms(flow, batch, seeded())
    expected = -flow.log_prob(batch.x).mean() + nn.functional.cross_entropy(
        flow.class_logits(batch.labelled), batch.labels
    )
    torch.testing.assert_close(found.loss, expected)


def test_augmentation_reaches_both_parts() -> None:
    x, y = rows(6)
    plain, both = Batch(x, y).changed(lambda one: one + 1), Batch(x, y[:2], x[:2]).changed(lambda one: one + 1)
    assert torch.equal(plain.x, x + 1)
    assert plain.labelled is None
    assert both.labelled is not None
    assert torch.equal(both.labelled, x[:2] + 1)


@pytest.mark.parametrize(
    ("flow", "labels", "error", "match"),
    [
        (
            residual_flow((2,), blocks=1, hidden=(4,)),
            torch.zeros(3, dtype=torch.long),
            ConfigurationError,
            "classifier",
        ),
        (tiny(), None, ConfigurationError, "needs data with labels"),
        (tiny(), torch.full((3,), -1), ConfigurationError, "these have none"),
        (tiny(), torch.tensor([0, 1, 2]), DomainError, "this flow has 2 classes"),
    ],
)
def test_what_the_hybrid_objective_needs(flow: Flow, labels: Tensor | None, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Hybrid().check(flow, labels)


@pytest.mark.parametrize("weight", [-1, math.inf, math.nan])
def test_weights_that_cannot_be(weight: float) -> None:
    with pytest.raises(ConfigurationError, match=r"objective\.likelihood_weight"):
        Hybrid(weight)


@pytest.mark.parametrize("weight", [0, "1/D"])
@pytest.mark.parametrize("classifier", ["branches", "base"])
def test_it_learns(classifier: str, weight: float) -> None:
    x, y = rows(400)
    torch.manual_seed(0)
    flow = hybrid((2,), classes=2, blocks=(1,), hidden=16, branch_features=8, classifier=classifier, logdet=Exact())
    settings = TrainingSettings(steps=60, learning_rate=3e-2, warmup_steps=5)
    state = TrainingState.begin(flow, settings, 0)
    late = [record.terms for record in train(state, x, settings, Hybrid(weight), labels=y)][-10:]
    assert sum(one["accuracy"] for one in late) / 10 > 0.9
    if weight:
        entropy = 1 + math.log(2 * math.pi)
        assert sum(one["log_prob"] for one in late) / 10 > -entropy - 0.25


def logged(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "time")} for line in lines]


COUPLING = TINY[0].replace("{", '{"block":"coupling",')


@pytest.mark.parametrize("options", [[], ["data.labels=10", "objective.likelihood_weight=0.5", COUPLING]])
def test_exact_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    """Ctrl-C inside a step, after its batch was drawn; what goes on is the run that nobody disturbed."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(["train", "digits_hybrid", "--out", str(whole), *TINY, *options]) == 0
    draw = TrainingState.next_batch

    def interrupted(state: TrainingState, data: Tensor, size: int) -> Tensor:
        if state.step == 4:
            signal.raise_signal(signal.SIGINT)
        return draw(state, data, size)

    monkeypatch.setattr(TrainingState, "next_batch", interrupted)
    assert main(["train", "digits_hybrid", "--out", str(run), *TINY, *options]) == 130
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0
    assert logged(run) == logged(whole)
    for name in ("model.safetensors", "training.safetensors", "training.json"):
        ours, theirs = (one / "checkpoints" / "00000008" / name for one in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert (run / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at λ = 0 of blocks of couplings."""
    run = tmp_path_factory.mktemp("classifier") / "run"
    options = ["objective.likelihood_weight=0", COUPLING]
    assert main(["train", "digits_hybrid", "--out", str(run), *TINY, *options]) == 0
    return run


def test_the_log_has_the_terms_of_the_objective(classifier: Path) -> None:
    for line in logged(classifier):
        assert {"accuracy", "cross_entropy"} <= line.keys()
        assert not {"bits_per_dim", "nats", "log_prob"} & line.keys()
        assert line["loss"] == pytest.approx(line["cross_entropy"])
    assert {"validation accuracy", "validation cross_entropy"} <= logged(classifier)[-1].keys()


def test_the_weights_kept_are_those_of_the_best_objective(classifier: Path) -> None:
    entropies = [line["validation cross_entropy"] for line in logged(classifier) if "validation accuracy" in line]
    progress = json.loads((classifier / "checkpoints" / "00000008" / "training.json").read_text())
    assert len(entropies) == 2
    assert progress["best_score"] == pytest.approx(-min(entropies))


def test_evaluation_says_accuracy_and_bits(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = json.loads((classifier / "evaluation.json").read_text())
    assert report["classification"]["rows"] == 30
    picture = tmp_path / "calibration.png"
    command = ["evaluate", str(classifier), "--limit", "25", "--calibration", str(picture)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "bits/dim" in out
    assert "accuracy" in out
    assert "latent against N(0, I)" in out
    assert picture.stat().st_size > 3000
    assert main(command) == 2, "a picture is not overwritten"
    assert main([*command, "--force", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["classification"]["rows"] == values["latent"]["rows"] == 25


def test_evaluation_passes_over_the_rows_once(
    classifier: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so the command repeats the numbers of training, those of the classes too."""
    seen: list[int] = []
    original = Flow._enter

    def counted(self: Flow, x: Tensor, *rest: object) -> object:
        seen.append(len(x))
        return original(self, x, *rest)

    monkeypatch.setattr(Flow, "_enter", counted)
    capsys.readouterr()
    command = ["evaluate", str(classifier), "--limit", "30", "--draws", "1", "--seed", "0", "--json"]
    assert main(command) == 0
    assert seen == [30]
    values = json.loads(capsys.readouterr().out)
    report = json.loads((classifier / "evaluation.json").read_text())
    assert {key: values[key] for key in report} == report


def test_calibration_does_not_depend_on_the_draws_of_the_score(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = []
    for draws in ("1", "3"):
        picture = tmp_path / f"{draws}.png"
        command = ["evaluate", str(classifier), "--limit", "25", "--draws", draws, "--calibration", str(picture)]
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["latent"] == found[1]["latent"]
    assert found[0]["classification"] != found[1]["classification"]


def test_samples_of_a_class_from_the_command(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "threes.png"
    assert main(["sample", str(classifier), "--label", "3", "--n", "4", "--out", str(out)]) == 0
    assert out.stat().st_size > 100
    assert main(["sample", str(classifier), "--label", "10", "--n", "4", "--out", str(tmp_path / "x.png")]) == 2
    assert "labels from 10 to 10 were given; this flow has 10 classes" in capsys.readouterr().err
    flow = load_run(classifier).flow
    assert isinstance(flow, HybridFlow)
    assert flow.classes == 10


def test_a_flow_without_a_classifier_has_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    small = ["training.steps=1", "data.limit=20", "evaluation.limit=5", "evaluation.samples=1", *TINY[7:8]]
    options = 'architecture.options={"blocks":[1],"hidden":4,"dense_blocks":0}'
    assert main(["train", "digits", "--out", str(run), *small, options]) == 0
    assert main(["sample", str(run), "--label", "3", "--n", "1", "--out", str(tmp_path / "x.png")]) == 2
    assert "has no classifier" in capsys.readouterr().err


def test_recipes_of_hybrids() -> None:
    for name in ("digits_hybrid", "mnist_hybrid", "mnist_hybrid_paper", "cifar10_hybrid", "cifar10_hybrid_paper"):
        recipe = RECIPES[name]()
        assert recipe.objective == Hybrid("1/D")
        assert recipe.architecture.name.startswith("hybrid")
    cifar = RECIPES["cifar10_hybrid_paper"]()
    preprocessing = cifar.preprocessing
    assert (preprocessing.standardise, preprocessing.flip, preprocessing.crop_padding) == (True, True, 4)
    assert not RECIPES["mnist_hybrid_paper"]().preprocessing.standardise


def test_standardisation_replaces_the_logit() -> None:
    recipe = RECIPES["digits_hybrid"]()
    recipe.preprocessing.standardise = True
    data = load_data(recipe.data, 0)
    made = make_preprocessing(recipe, data)
    assert isinstance(made, ImagePreprocessing)
    assert made.alpha is None
    z = made(data.train.float(), generator=seeded())
    assert abs(z.mean().item()) < 0.02
    assert z.std().item() == pytest.approx(1, abs=0.02)


def test_labels_are_kept_within_the_limit_and_by_the_seed() -> None:
    recipe = RECIPES["digits_hybrid"]()
    recipe.data.limit, recipe.data.labels = 100, 20
    data = load_data(recipe.data, 0)
    x, labels = training_rows(recipe, data)
    assert labels is not None
    assert data.train_labels is not None
    assert len(x) == len(labels) == 100
    assert labels[labels >= 0].bincount().tolist() == [2] * 10
    assert torch.equal(labels[labels >= 0], data.train_labels[:100][labels >= 0])
    recipe.seed = 1
    assert not torch.equal(labels, training_rows(recipe, data)[1])
    table = RECIPES["checkerboard"]()
    table.data.labels = 10
    with pytest.raises(ConfigurationError, match=r"data\.labels=10: the data 'checkerboard' have no labels"):
        training_rows(table, load_data(table.data, 0))
