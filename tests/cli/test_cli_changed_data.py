"""A run and its data: what has changed since is refused, and other files are scored whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from contraflow import Exact
from contraflow.cli import main
from contraflow.data import read_rows
from contraflow.data.path_dataset import split_rows
from contraflow.runs import load_run

TINY = [
    "architecture.options.blocks=1",
    "architecture.options.hidden=[8]",
    "training.steps=3",
    "training.batch_size=32",
    "training.validate_every=0",
    "estimator.kind=exact",
    "evaluation.estimator.kind=exact",
    "evaluation.samples=20",
]
ROWS = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)


def write(path: Path, rows: np.ndarray, header: str = "a,b") -> Path:
    np.savetxt(path, rows, delimiter=",", header=header, comments="")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changed")
    write(folder / "t.csv", ROWS[:200])
    assert main(["train", "table", f"data.name={folder / 't.csv'}", "--out", str(folder / "run"), *TINY]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file as it was, whatever a test before did to it."""
    write(trained / "t.csv", ROWS[:200])
    shutil.rmtree(trained / "copy", ignore_errors=True)
    shutil.copytree(trained / "run", trained / "copy")
    capsys.readouterr()
    return trained


CHANGES = {
    "appended rows": (ROWS, "a,b", "300 rows, not 200"),
    "a shorter file": (ROWS[:100], "a,b", "100 rows, not 200"),
    "one number": (np.where(np.arange(400).reshape(200, 2) == 7, 0, ROWS[:200]), "a,b", "other values or another"),
    "sorted rows": (ROWS[:200][ROWS[:200, 0].argsort()], "a,b", "another order in train, validation, test"),
    "columns that have changed names": (ROWS[:200], "b,a", "other values or another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused(
    change: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, header, said = CHANGES[change]
    write(folder / "t.csv", rows, header)
    run = str(folder / "copy")
    before = sorted((path, path.read_bytes()) for path in (folder / "copy").rglob("*") if path.is_file())
    for command in (
        ["evaluate", run],
        ["report", run, "--out", str(tmp_path / "a.html")],
        ["ood", run, "--against", "moons", "--limit", "20", "--batch", "2"],
        ["train", "--resume", run, "training.steps=6"],
    ):
        assert main(command) == 2, command
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"contraflow: error: {folder / 't.csv'} has changed since {run} was trained on it"), err
        assert said in err
        assert "estore the data" in err
        assert err.count("\n") == 1
    assert sorted((path, path.read_bytes()) for path in (folder / "copy").rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [("seed=5", "another order in train, validation, test"), ("data.limit=50", "50 training rows (data.limit=50)")],
)
def test_a_run_goes_on_with_its_own_split(
    override: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed splits the rows anew; fewer rows than an epoch is in the middle of used to be an IndexError."""
    assert main(["train", "--resume", str(folder / "copy"), "training.steps=6", override]) == 2
    assert said in capsys.readouterr().err
    assert main(["train", "--resume", str(folder / "copy"), "training.steps=6"]) == 0


def test_a_file_may_move(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.move(folder / "t.csv", folder / "moved.csv")
    assert main(["train", "--resume", str(folder / "copy"), f"data.name={moved}", "training.steps=4"]) == 0
    assert "has changed since" not in capsys.readouterr().err
    assert main(["evaluate", str(folder / "copy")]) == 0


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, object], str]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--exact", "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def mean_log_prob(run: Path, rows: np.ndarray) -> float:
    return load_run(run).flow.with_logdet(Exact()).log_prob(torch.from_numpy(rows)).double().mean().item()


def test_another_file_is_scored_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As few rows as it has; its columns by name."""
    run = folder / "run"
    for rows in (ROWS[200:], ROWS[200:203]):
        values, err = evaluated(capsys, run, "--data", write(folder / "new.csv", rows[:, ::-1], "b,a"))
        assert (values["rows"], values["split"]) == (len(rows), "all")
        assert values["value"] == pytest.approx(mean_log_prob(run, rows), abs=1e-5)
        assert f"all {len(rows)} rows of" in err
        assert "trained on" not in err
    values, _ = evaluated(capsys, run, "--data", write(folder / "new.csv", ROWS[200:]), "--split", "test")
    assert (values["rows"], values["split"]) == (10, "test")


def test_the_training_file_under_another_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, _ = evaluated(capsys, folder / "run")
    values, err = evaluated(capsys, folder / "run", "--data", shutil.copy(folder / "t.csv", folder / "same.csv"))
    assert (values["value"], values["rows"], values["split"]) == (own["value"], 20, "test")
    assert "only its test rows are scored" in err


def test_rows_that_were_trained_on_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = set(split_rows(200, 0, "")[0].tolist())
    for rows, options in ((np.arange(300), []), (np.arange(199, -1, -1), []), (np.arange(300), ["--split", "test"])):
        file = write(folder / "grown.csv", ROWS[rows])
        judged = rows if not options else rows[split_rows(300, 0, "")[2]]
        count = len(learned & set(judged.tolist()))
        assert count > 0
        values, err = evaluated(capsys, folder / "run", "--data", file, *options)
        assert values["rows"] == len(judged)
        assert (
            f"about {count} of these {len(judged)} rows of {file} are rows that {folder / 'run'} was trained on" in err
        )


def forget_the_fingerprint(run: Path) -> None:
    """As runs were before there were any."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    config = json.loads((checkpoint / "config.json").read_text())
    del config["data"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = hashlib.sha256((checkpoint / "config.json").read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_without_a_fingerprint_says_that_it_cannot_be_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "copy"
    forget_the_fingerprint(run)
    _, err = evaluated(capsys, run)
    assert "has no fingerprint of its data: it cannot be checked whether" in err
    values, err = evaluated(capsys, run, "--data", write(folder / "new.csv", ROWS[200:]))
    assert values["rows"] == 100
    assert "it is not known whether it was trained on" in err
    write(folder / "t.csv", ROWS[:100])
    assert main(["train", "--resume", str(run), "training.steps=20"]) == 2
    assert "80 training rows (data.limit=None), but" in capsys.readouterr().err
    write(folder / "t.csv", ROWS[:200])
    assert main(["train", "--resume", str(run), "training.steps=5"]) == 0
    assert "it cannot be checked whether" in capsys.readouterr().err
    _, err = evaluated(capsys, run)
    assert "fingerprint" not in err, "it has one now"


def test_a_file_with_its_own_splits_keeps_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "own.npz", train=ROWS[:50], validation=ROWS[50:60], test=ROWS[290:])
    values, err = evaluated(capsys, folder / "run", "--data", folder / "own.npz")
    assert (values["rows"], values["split"]) == (10, "test")
    assert "trained on" not in err
    assert values["value"] == pytest.approx(mean_log_prob(folder / "run", ROWS[290:]), abs=1e-5)
    np.save(folder / "one.npy", ROWS[200:])
    np.savez(folder / "one.npz", ROWS[200:])
    for name in ("one.npy", "one.npz"):
        values, _ = evaluated(capsys, folder / "run", "--data", folder / name)
        assert values["rows"] == len(read_rows(folder / name)) == 100
