"""Tables from CSV files and 2-D densities through the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contraflow.cli import main

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
    with open(path, "w", newline="") as file:
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
