"""`contraflow ood` and `contraflow quality` on tiny runs of digits, a hybrid one too, and on a tiny table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from contraflow.cli import main
from contraflow.evaluation import class_probabilities, gather_evidence
from contraflow.runs import load_run
from contraflow.runs.build import load_data

TINY = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=4",
    "architecture.options.dense_blocks=0",
    "training.steps=12",
    "training.batch_size=16",
    "training.validate_every=0",
    "evaluation.limit=5",
    "evaluation.samples=4",
    "evaluation.draws=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    assert main(["train", "digits", "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("background") / "run"
    assert main(["train", "digits", "--out", str(out), *TINY, "preprocessing.mutate=0.3"]) == 0
    return out


def test_ood_prints_a_table_and_json_agrees(
    run: Path, background: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    shades = tmp_path / "shades.npy"
    np.save(shades, np.random.default_rng(0).integers(0, 17, (250, 1, 10, 10), np.uint8))
    arguments = ["ood", str(run), "--against", f"noise,constant,{shades}", "--limit", "24", "--exact-terms", "2"]
    arguments += ["--background", str(background)]
    capsys.readouterr()
    assert main([*arguments, "--out", str(picture)]) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    found = values["detections"]
    assert list(found) == ["noise", "constant", str(shades)]
    scores = ["log p(x)", "typicality", "typicality of 10 rows", "likelihood ratio", "input complexity"]
    assert list(found["noise"]) == scores
    assert found["noise"]["log p(x)"]["auroc"] > 0.95, "uniform noise is unlike digits for any flow"
    for name, row in found.items():
        for score, one in row.items():
            assert f"| {name} | {score} | {one['auroc']:.3f} [{one['low']:.3f}, {one['high']:.3f}] |" in text
    assert "10×10 reduced to 8×8" in text
    assert "digits: 24 rows, log p(x) " in text
    assert (values["inside"], values["step"]) == ("digits", 12)
    with Image.open(picture) as image:
        assert image.format == "PNG"
    assert main([*arguments, "--out", str(picture)]) == 2, "it exists"


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hybrid") / "run"
    options = ["architecture.options.block=coupling", "architecture.options.branch_features=16"]
    options += ["architecture.options.hidden=16", "training.steps=80", "objective.likelihood_weight=0.02"]
    options += ["training.warmup_steps=5", "training.learning_rate=0.02"]
    assert main(["train", "digits_hybrid", "--out", str(out), *TINY, *options]) == 0
    return out


def test_ood_of_a_hybrid_run_asks_the_classes(hybrid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against scikit-learn and passes of the classifier alone: all test rows, and all those of a file."""
    grey, picture = tmp_path / "grey.npz", tmp_path / "a.png"
    squares = np.random.default_rng(0).integers(5, 12, (200, 1, 8, 8), np.uint8)
    stretched = (squares / 16 * 255).round().astype(np.uint8)  # of a file: 256 levels, brought to the run's 17
    np.savez(grey, train=stretched[:1], validation=stretched[:1], test=stretched)
    arguments = ["ood", str(hybrid), "--against", f"noise,{grey}", "--limit", "200", "--draws", "8"]
    capsys.readouterr()
    assert main([*arguments, "--out", str(picture)]) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    scores = ["log p(x)", "typicality", "typicality of 10 rows", "input complexity", "class confidence"]
    for name, row in values["detections"].items():
        assert list(row) == scores
        one = row["class confidence"]
        assert 0 <= one["low"] < one["auroc"] < one["high"] <= 1
        assert (one["inside"], one["outside"]) == (180, 200)
        interval = f"{one['auroc']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        assert f"| {name} | class confidence | {interval} |" in text, "the same seed, the same noise"
    assert values["detections"]["noise"]["log p(x)"]["auroc"] > 0.95
    trained = load_run(hybrid)
    own = load_data(trained.recipe.data, 0).test
    x = torch.cat([own, torch.from_numpy(squares)])
    certainty = class_probabilities(trained.flow, x, draws=8, generator=torch.Generator().manual_seed(1)).amax(1)
    expected = roc_auc_score([0] * len(own) + [1] * len(squares), -certainty)
    found = values["detections"][str(grey)]["class confidence"]["auroc"]
    assert abs(expected - 0.5) > 0.1, "which way round it is would not show"
    assert found == pytest.approx(expected, abs=0.03), "the draws of noise are others"
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_class_confidence_is_that_of_the_passes_of_log_p(hybrid: Path) -> None:
    """One seed, one row of numbers, whatever torch's own stream is at."""
    trained = load_run(hybrid)
    x = load_data(trained.recipe.data, 0).test[:30]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(gather_evidence(trained.flow, x, draws=2, generator=torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(0)
    scores = trained.flow.log_prob_estimate(x, probes=2, batch_size=len(x), generator=generator)
    assert all(torch.equal(one.class_probabilities, scores.class_probabilities) for one in found)
    guessed = found[0].class_probabilities.argmax(1) == load_data(trained.recipe.data, 0).test_labels[:30]
    assert guessed.double().mean() > 0.5, "it has learned digits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "5"], "limit=5"),
        (["--limit", "30", "--batch", "16"], "batch=16, but digits has 30 rows"),
        (["--against", ","], "expected at least one data set"),
        (["--against", "digits"], "trained on these data"),
        (["--against", "nois"], "unknown data set 'nois'"),
        (["--against", "checkerboard"], "expected ("),
        (["--out", "a.csv"], "must end in .png"),
        (["--background", "absent"], "absent"),
    ],
)
def test_ood_refuses(run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["ood", str(run), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_ood_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name, shift in (("own", 0), ("far", 6)):
        rows = generator.normal(shift, 1, (400, 2))
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header="a,b", comments="")
    settings = ["architecture.options.blocks=2", "architecture.options.hidden=[16]", "training.steps=60"]
    settings += ["training.batch_size=100", "training.validate_every=0", "evaluation.samples=10"]
    own, far, out = tmp_path / "own.csv", tmp_path / "far.csv", tmp_path / "run"
    assert main(["train", "table", f"data.name={own}", "--out", str(out), *settings]) == 0
    capsys.readouterr()
    assert main(["ood", str(out), "--against", str(far), "--batch", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["detections"][str(far)]
    assert list(found) == ["log p(x)", "typicality", "typicality of 5 rows"]
    assert found["log p(x)"]["auroc"] > 0.95
    assert main(["ood", str(out)]) == 2
    assert "unknown data set 'noise'" in capsys.readouterr().err
    assert main(["quality", str(out)]) == 2
    assert "FID needs a flow of images" in capsys.readouterr().err


@pytest.mark.slow
def test_quality_has_a_row_for_samples_and_one_for_test_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    capsys.readouterr()
    assert main(["quality", str(run), "--samples", "20", "--temperature", "0.7", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [one["name"] for one in rows] == ["test images", "samples at T = 0.7"]
    assert rows[1]["kid"]["value"] > rows[0]["kid"]["value"] + 3 * rows[1]["kid"]["standard_error"], "hardly trained"
    assert (rows[0]["images"], rows[0]["reference"], rows[0]["features"]) == (20, 20, "EfficientNet-Lite0")
    assert not rows[0]["published"]
    assert main(["quality", str(run), "--features", "absent.pth"]) == 2
    assert "absent.pth" in capsys.readouterr().err
