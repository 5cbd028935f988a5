"""Tables from CSV files and 2-D densities through the commands."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contraflow.cli import main
from contraflow.errors import ShapeError
from contraflow.report import ReportSettings, RunData
from contraflow.report.densities import other_data
from contraflow.runs import load_run
from contraflow.runs.build import load_data_for
from contraflow.runs.ood import compare_with_others

TINY = [
    "architecture.options.blocks=2",
    "architecture.options.hidden=[8]",
    "training.steps=6",
    "training.batch_size=32",
    "training.validate_every=3",
    "training.validation_size=20",
    "evaluation.limit=50",
    "evaluation.samples=50",
]


def write_csv(path: Path, names: list[str], rows: np.ndarray) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows.tolist())
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.random.default_rng(0).normal(size=(200, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, 3]
    return write_csv(tmp_path_factory.mktemp("table") / "people.csv", ["age", "height", "weight", "unused"], rows)


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    out = table.parent / "run"
    chosen = ["data.columns=[age, height, weight]", f"data.name={table}"]
    assert main(["train", "table", "--out", str(out), *chosen, *TINY]) == 0
    return out


def test_a_table_is_trained_and_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (run / "samples.png").exists()
    assert json.loads((run / "evaluation.json").read_text())["unit"] == "nats"
    capsys.readouterr()
    assert main(["evaluate", str(run), "--exact", "--split", "validation"]) == 0
    assert capsys.readouterr().out.startswith("nats -")


def test_samples_of_a_table_carry_its_columns(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.csv"
    assert main(["sample", str(run), "--out", str(out), "--n", "300"]) == 0
    header, *rows = list(csv.reader(out.read_text().splitlines()))
    assert header == ["age", "height", "weight"]
    values = np.array(rows, dtype=float)
    assert values.shape == (300, 3)
    assert abs(values[:, 1].mean() - 50) < 5, "in the units of the data"


def test_a_table_is_scored_by_the_names_of_its_columns(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.array([[3.0, 0.0, 50.0, 0.0], [3.0, 0.0, 5000.0, 0.0]])
    file = write_csv(tmp_path / "turned.csv", ["unused", "age", "height", "weight"], rows)
    capsys.readouterr()
    assert main(["score", str(run), str(file), "--exact", "--draws", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
    assert [line[0] for line in values] == [0, 1]
    assert values[0][1] > -20 > values[1][1], "the far row is unlikely"
    assert [line[2] for line in values] == [0, 0], "nothing random is left"


def test_a_missing_column_has_its_nearest_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_csv(tmp_path / "short.csv", ["ages", "height", "weight"], np.ones((3, 3)))
    out = tmp_path / "scores.csv"
    assert main(["score", str(run), str(file), "--out", str(out)]) == 2
    assert "has no column 'age'. Did you mean 'ages'?" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("cell", ["nan", "", "inf", "tall"])
def test_a_bad_cell_is_named(cell: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(f"age,height,weight\n1,2,3\n1,{cell},3\n")
    assert main(["score", str(run), str(file)]) == 2
    error = capsys.readouterr().err
    assert "line 3, column 'height'" in error
    assert repr(cell) in error
    out = tmp_path / "run"
    assert main(["train", "table", "--out", str(out), f"data.name={file}", *TINY]) == 2
    assert "line 3, column 'height'" in capsys.readouterr().err
    assert not out.exists()


def test_an_unknown_column_in_training(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = [f"data.name={table}", "data.columns=[age, wieght]", *TINY]
    assert main(["train", "table", "--out", str(out), *arguments]) == 2
    assert "Did you mean 'weight'?" in capsys.readouterr().err
    assert not out.exists()


def test_an_array_with_another_width(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 7), np.float32))
    assert main(["score", str(run), str(tmp_path / "wide.npy")]) == 2
    error = capsys.readouterr().err
    assert "(7,)" in error
    assert "(3,)" in error


@pytest.fixture(scope="module")
def two_scales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns near 0 and near 100, and a run on them: what is matched by position is far off."""
    folder = tmp_path_factory.mktemp("scales")
    rows = np.random.default_rng(1).normal((0, 100), 1, (300, 2))
    np.savetxt(folder / "ab.txt", rows, header="a b")
    assert main(["train", "table", "--out", str(folder / "run"), f"data.name={folder / 'ab.txt'}", *TINY]) == 0
    return folder


def nats(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[float, str]:
    """The value that `evaluate` prints, and what it says beside."""
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--exact", "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out)["value"], err


def turned(folder: Path, name: str) -> Path:
    """The rows of that table with a third column before the two, which change places."""
    rows = np.loadtxt(folder / "ab.txt")
    return write_csv(folder / name, ["more", "b", "a"], np.stack([rows[:, 0], rows[:, 1], rows[:, 0]], axis=1))


def test_evaluate_matches_columns_by_name(two_scales: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, split = str(two_scales / "run"), ["--split", "test"]
    own, said = nats([run, *split], capsys)
    assert "left out" not in said
    file = turned(two_scales, "turned.csv")
    other, said = nats([run, "--data", str(file), *split], capsys)
    assert other == pytest.approx(own, abs=1e-6)
    assert f"{file}: column 'more' left out" in said
    np.save(two_scales / "ab.npy", np.loadtxt(two_scales / "ab.txt"))
    other, said = nats([run, "--data", str(two_scales / "ab.npy"), *split], capsys)
    assert other == pytest.approx(own, abs=1e-6)
    assert "taken in their order as columns 'a', 'b'" in said
    assert main(["evaluate", run, "--data", "moons"]) == 2
    assert "moons: has no columns 'a', 'b'. Columns: x1, x2." in capsys.readouterr().err


def test_the_own_file_with_its_columns_turned(
    two_scales: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation, report, out-of-distribution scores and training that goes on: all as before."""
    file, run = tmp_path / "t.csv", tmp_path / "here"
    rows = np.loadtxt(two_scales / "ab.txt")
    write_csv(file, ["a", "b"], rows)
    steady = ["training.warmup_steps=0", "training.schedule=constant", "training.validate_every=0"]
    arguments = ["train", "table", f"data.name={file}", *TINY, *steady]
    assert main([*arguments, "--out", str(run)]) == 0
    assert main([*arguments, "--out", str(tmp_path / "plain"), "training.steps=12"]) == 0
    before, _ = nats([str(run)], capsys)
    write_csv(file, ["b", "a"], rows[:, ::-1])
    after, said = nats([str(run)], capsys)
    assert after == pytest.approx(before, abs=1e-9)
    assert "left out" not in said
    trained = load_run(run)
    own = load_data_for(trained.columns, trained.recipe.data, trained.recipe.seed)
    beside = other_data(RunData(trained, own, ReportSettings(other=str(turned(two_scales, "beside.csv")))))
    assert all(rows[:, 0].mean() < 10 < 90 < rows[:, 1].mean() for rows in (own.test, *beside.values()))
    assert main(["ood", str(run), "--against", str(turned(two_scales, "far.csv")), "--batch", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["detections"].values()
    assert found["log p(x)"]["low"] < 0.5 < found["log p(x)"]["high"], "the same rows"
    assert "column 'more' left out" in err
    assert main(["train", "--resume", str(run), "training.steps=12"]) == 0
    resumed, plain = (load_run(one).flow.state_dict() for one in (run, tmp_path / "plain"))
    assert all(torch.allclose(resumed[name], plain[name]) for name in plain)


def test_a_background_of_other_columns_is_refused(two_scales: Path) -> None:
    trained = load_run(two_scales / "run")
    for columns, message in [(("b", "a"), "takes columns 'b', 'a', .* columns 'a', 'b'"), (None, "unnamed columns")]:
        with pytest.raises(ShapeError, match=message):
            compare_with_others(trained, ["moons"], background=replace(trained, columns=columns))


def test_a_column_more_is_said_once_when_rows_are_scored(two_scales: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = turned(two_scales, "scored.csv")
    capsys.readouterr()
    assert main(["score", str(two_scales / "run"), str(file), "--exact", "--draws", "1"]) == 0
    out, err = capsys.readouterr()
    assert err.count("left out") == 1
    assert np.mean([float(line.split(",")[1]) for line in out.splitlines()[1:]]) > -10


def test_another_locale(tmp_path: Path) -> None:
    """A process in ASCII writes UTF-8 files, which are read again, and prints what its terminal has no letters for."""
    file, run = tmp_path / "t.csv", tmp_path / "run"
    rows = np.random.default_rng(0).normal(size=(100, 2))
    write_csv(file, ["größe", "höhe"], rows)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"recipe: table\ndata: {{name: {file}, columns: [höhe, größe]}}\n", encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    commands = [
        ["train", str(settings), "--out", str(run), *TINY],
        ["sample", str(run), "--out", str(tmp_path / "s.csv"), "--n", "3"],
        ["score", str(run), str(tmp_path / "s.csv"), "--exact", "--json"],
    ]
    script = f"from contraflow.cli import main; raise SystemExit(any([main(one) for one in {commands}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode("ascii")
    assert "\\xb1" in printed
    assert printed.count("log_prob") == 3
    assert (tmp_path / "s.csv").read_text(encoding="utf-8").startswith("höhe,größe\n")


def test_two_dimensions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "moons", "--out", str(out), *TINY, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["unit"] == "nats"
    assert "exact" in values["estimator"]
    with Image.open(out / "samples.png") as image:
        assert image.size[0] > 2 * image.size[1], "three panels: data, samples, density"
    assert main(["sample", str(out), "--out", str(tmp_path / "a.npy"), "--n", "7"]) == 0
    assert np.load(tmp_path / "a.npy").shape == (7, 2)
    assert main(["sample", str(out), "--out", str(tmp_path / "a.csv"), "--n", "7"]) == 0
    assert (tmp_path / "a.csv").read_text().startswith("x1,x2\n")
    assert main(["sample", str(out), "--out", str(tmp_path / "a.png")]) == 2
    assert ".csv or .npy" in capsys.readouterr().err
