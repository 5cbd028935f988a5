"""Tables of timestamps, outliers and integers through the commands."""

from __future__ import annotations

import csv
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from contraflow.cli import main
from contraflow.training import TrainingState

START = 1_700_000_000
TINY = [
    "architecture.options.blocks=1",
    "architecture.options.hidden=[4]",
    "training.steps=6",
    "training.batch_size=100",
    "training.warmup_steps=0",
    "training.validate_every=0",
    "training.checkpoint_every=2",
    "evaluation.samples=20",
    "estimator.kind=exact",
    "evaluation.estimator.kind=exact",
]


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "table", "--out", str(out), f"data.name={data}", *TINY, *more])


def write(path: Path, header: str, *columns: np.ndarray) -> Path:
    np.savetxt(path, np.stack(columns, 1), delimiter=",", header=header, comments="", fmt="%.16g")
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    flag, age, y = random.integers(0, 2, 500), random.poisson(30, 500), random.normal(size=500)
    return write(tmp_path_factory.mktemp("people") / "people.csv", "flag,age,y", flag, age, y + flag)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_timestamps_are_trained_on_scored_and_sampled_in_seconds(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    seconds = START + 10 * random.normal(size=2000)
    data = write(tmp_path / "t.csv", "time,y", seconds, random.normal(size=2000))
    run = tmp_path / "run"
    more = ["training.steps=150", "training.batch_size=500", "training.learning_rate=1e-2", f"dtype={dtype}"]
    assert train(data, run, *more) == 0
    nats = json.loads((run / "evaluation.json").read_text())["value"]
    # N(START, 10) and N(0, 1) have -ln 10 - ln(2πe) = -5.14 nats
    assert nats == pytest.approx(-math.log(10) - math.log(2 * math.pi * math.e), abs=0.35)

    assert main(["sample", str(run), "--out", str(tmp_path / "s.npy"), "--n", "1000"]) == 0
    times = np.load(tmp_path / "s.npy")[:, 0]
    assert times.dtype == np.float64
    assert times.mean() == pytest.approx(START, abs=2)
    assert times.std() == pytest.approx(10, rel=0.2)
    capsys.readouterr()
    assert main(["score", str(run), str(data), "--exact", "--draws", "1"]) == 0
    scores = [float(row["log_prob"]) for row in csv.DictReader(capsys.readouterr().out.splitlines())]
    assert len(set(scores)) > 1990
    assert float(np.mean(scores)) == pytest.approx(nats, abs=0.2)
    assert main(["evaluate", str(run), "--data", str(data), "--exact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == pytest.approx(nats, abs=0.3)


def test_outliers_are_told_and_a_robust_scaling_copes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    column = random.normal(size=2000)
    column[random.choice(2000, 10, replace=False)] = 1e12
    data = write(tmp_path / "t.csv", "a,b", column, random.normal(size=2000))
    assert train(data, tmp_path / "standard") == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "column 'a'" in err
    assert "different values are 2 for the flow, which computes in float32" in err
    assert "preprocessing.kind=robust" in err

    robust = tmp_path / "robust"
    more = ["training.steps=120", "training.batch_size=500", "training.learning_rate=1e-2"]
    more += ["architecture.options.blocks=2", "architecture.options.hidden=[16,16]"]
    assert train(data, robust, *more, "preprocessing.kind=robust") == 0
    assert "column 'a'" not in capsys.readouterr().err
    assert main(["score", str(robust), str(data), "--exact", "--draws", "1"]) == 0
    scores = np.array([float(row["log_prob"]) for row in csv.DictReader(capsys.readouterr().out.splitlines())])
    others = scores[column < 1e12]
    assert others.mean() == pytest.approx(-math.log(2 * math.pi * math.e), abs=0.4)
    likely, unlikely = others[np.abs(column[column < 1e12]) < 0.5], others[np.abs(column[column < 1e12]) > 2]
    assert likely.mean() - unlikely.mean() > 1, "of a normal distribution, 2.8 nats"
    assert scores[column == 1e12].max() < others.min()


def test_columns_without_a_density_are_refused_before_anything_is_written(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("standardise", "robust", "none"):
        assert train(people, tmp_path / "run", f"preprocessing.kind={kind}") == 2
        err = capsys.readouterr().err
        assert "no density in column 'flag' (2 values: 0, 1)" in err
        assert "data.columns=[age,y]" in err
        assert "data.dequantise=[flag]" in err
        assert not (tmp_path / "run").exists()
    assert train(people, tmp_path / "run", "data.columns=[age,y]") == 0
    assert "column 'age' holds integers" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["standardise", "robust"])
def test_dequantised_columns_are_trained_on_scored_and_sampled(
    kind: str, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(people, run, "data.dequantise=[flag,age]", f"preprocessing.kind={kind}") == 0
    shown = capsys.readouterr()
    assert "dequantisation draw" in shown.out
    assert "column '" not in shown.err
    assert main(["sample", str(run), "--out", str(tmp_path / "s.csv"), "--n", "50"]) == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert {row["flag"] for row in rows} == {"0", "1"}
    assert all(row["age"] == str(int(row["age"])) for row in rows)
    capsys.readouterr()
    assert main(["score", str(run), str(people), "--exact", "--draws", "4"]) == 0
    assert all(float(row["standard_error"]) > 0 for row in csv.DictReader(capsys.readouterr().out.splitlines()))
    write(tmp_path / "bad.csv", "flag,age,y", *np.array([[0.0, 30, 1], [0.5, 30, 1]]).T)
    assert main(["score", str(run), str(tmp_path / "bad.csv")]) == 2
    assert "column 'flag' is dequantised, so it takes integers; sample 1 holds 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("data.dequantise=[flga]", "no column 'flga'. Did you mean 'flag'?"),
        ("data.dequantise=[flag,y]", "column 'y' holds"),
        ("data.dequantise=[flag] preprocessing.kind=none", "needs preprocessing.kind=standardise or robust"),
    ],
)
def test_a_dequantisation_that_cannot_be(
    option: str, expected: str, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(people, tmp_path / "run", *option.split()) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_columns_of_an_array_are_dequantised_by_number(people: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "people.npy", np.loadtxt(people, delimiter=",", skiprows=1))
    assert train(tmp_path / "people.npy", tmp_path / "run", "data.dequantise=[0,1]") == 0
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "s.npy"), "--n", "50"]) == 0
    samples = np.load(tmp_path / "s.npy")
    assert set(samples[:, 0]) == {0, 1}
    assert np.array_equal(samples[:, 1], samples[:, 1].round())


def test_a_resumed_table_is_bit_for_bit_the_one_that_was_not_stopped(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["data.dequantise=[flag,age]", "preprocessing.kind=robust"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(people, whole, *more) == 0
    draw = TrainingState.next_batch

    def interrupted(state: TrainingState, data: Tensor, size: int) -> Tensor:
        if state.step == 2:
            signal.raise_signal(signal.SIGINT)
        return draw(state, data, size)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "next_batch", interrupted)
        assert train(people, run, *more) == 130
    assert main(["train", "--resume", str(run)]) == 0
    for name in ("model.safetensors", "training.safetensors", "training.json"):
        ours, theirs = (one / "checkpoints" / "00000006" / name for one in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert (run / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
