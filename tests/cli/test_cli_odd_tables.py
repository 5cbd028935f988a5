"""Tables with huge, tiny and constant numbers, one row, or fewer rows than a batch; and TensorBoard's events."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from contraflow import Exact
from contraflow.cli import main
from contraflow.runs import load_run

TINY = [
    "architecture.options.blocks=1",
    "architecture.options.hidden=[4]",
    "training.steps=3",
    "training.batch_size=64",
    "training.validate_every=2",
    "training.warmup_steps=0",
    "evaluation.samples=5",
]


def own_splits(path: Path, rows: int) -> Path:
    """A file of `rows` training rows, one to validate and one to test on."""
    random = np.random.default_rng(0)
    np.savez(
        path, **{name: random.normal(size=(n, 2)) for name, n in (("train", rows), ("validation", 1), ("test", 1))}
    )
    return path


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "table", "--out", str(out), f"data.name={data}", *TINY, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    assert train(own_splits(folder / "few.npz", 7), folder / "run", "--tensorboard") == 0
    return folder / "run"


def test_fewer_rows_than_a_batch(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [line["step"] for line in lines], "every step takes all rows"
    assert all(math.isfinite(line["loss"]) for line in lines)
    report = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert report["rows"] == 1
    assert report["standard_error"] is None, "one row has no spread, and JSON no NaN"


def test_events_of_tensorboard_are_written_and_readable(run: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (file,) = (run / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for tag in ("loss", "nats", "validation nats", "gradient_norm", "lipschitz", "learning_rate"):
        written = {one.step: one.value for one in events.Scalars(tag)}
        assert written == {line["step"]: pytest.approx(line[tag], rel=1e-6) for line in lines if tag in line}, tag
    assert len(events.Scalars("loss")) == len(lines) > 0
    assert not {"step", "time", "epoch"} & set(events.Tags()["scalars"])


@pytest.mark.parametrize("kind", ["none", "standardise"])
def test_one_row(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = train(own_splits(tmp_path / "one.npz", 1), tmp_path / "run", f"preprocessing.kind={kind}")
    err = capsys.readouterr().err
    if kind == "none":
        assert code == 0
        return
    assert code == 2
    assert "train has one row" in err
    assert not (tmp_path / "run").exists()


def test_a_constant_column_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{k},3\n" for k in range(30)))
    assert train(tmp_path / "t.csv", tmp_path / "run") == 2
    assert "column 'b' is constant (3) in train. Drop it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def scores(run: Path, file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["score", str(run), str(file), "--exact", "--draws", "1", *more]) == 0
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_scores_of_huge_tiny_and_few_rows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1e30,-1e30\n1e-42,0\n1e-320,-1e-320\n0,0\n")
    single, double = scores(run, file, capsys), scores(run, file, capsys, "--dtype", "float64")
    assert single[0]["log_prob"] == "-inf"
    assert float(double[0]["log_prob"]) < -1e58
    for row in (1, 2, 3):
        assert float(single[row]["log_prob"]) == pytest.approx(float(double[3]["log_prob"]), abs=1e-4)
    assert main(["score", str(run), str(file), "--json"]) == 0
    lines = [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]
    assert [line["log_prob"] is None for line in lines] == [True, False, False, False]
    found = []
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "one.npy", np.array([[0.5, -2]], dtype))
        (row,) = scores(run, tmp_path / "one.npy", capsys)
        found.append(row["log_prob"])
    expected = load_run(run).flow.with_logdet(Exact()).log_prob(torch.tensor([[0.5, -2]])).item()
    assert found == [f"{expected:.6f}"] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,nan\n", "line 2, column 'b'"),
        ("a,b\n1,2\n-inf,2\n", "line 3, column 'a'"),
        ("a,b\n1,2\n1e39,2\n", "numbers beyond the range of torch.float32 in sample 1"),
        ("a,b\n", "no rows"),
        ("a\n1\n", "rows have shape (1,)"),
    ],
)
def test_rows_that_cannot_be_scored(
    text: str, expected: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert main(["score", str(run), str(tmp_path / "t.csv")]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.out == ""


def test_an_unknown_option_is_answered_shortly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "table", "--out", str(tmp_path / "run"), "training.stepz=3"]) == 2
    err = capsys.readouterr().err
    assert "unknown option '--training.stepz'. Did you mean '--training.steps'?" in err
    assert "contraflow train --help" in err
    assert len(err) < 400
