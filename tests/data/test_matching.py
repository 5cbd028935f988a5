"""Columns of other data are matched by the names of those that a flow was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from contraflow.data import Dataset, load_dataset, load_matching, read_rows
from contraflow.errors import ConfigurationError, DataError

ROWS = np.stack([np.arange(20.0), 100 + np.arange(20), 200 + np.arange(20)], axis=1)


def written(path: Path, names: list[str]) -> Path:
    """Columns a of 0…19, b of 100…119, c of 200…219, in the order asked for, in one of the forms."""
    values = ROWS[:, ["abc".index(name) for name in names]]
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(dict(zip(names, values.T, strict=True))), path)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savetxt(path, values, header=" ".join(names))
    return path


Reader = Callable[..., torch.Tensor]


def whole(path: Path, columns: tuple[str, ...] | None, note: Callable[[str], None]) -> torch.Tensor:
    return read_rows(path, columns=columns, note=note)


def split(path: Path, columns: tuple[str, ...] | None, note: Callable[[str], None]) -> torch.Tensor:
    data = load_matching(path, columns, note=note)
    assert data.columns in (None, columns)
    return torch.cat([data.train, data.validation, data.test])


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
@pytest.mark.parametrize("read", [whole, split])
def test_columns_are_matched_by_name(read: Reader, suffix: str, tmp_path: Path) -> None:
    said: list[str] = []
    for order in ("ab", "ba"):
        found = read(written(tmp_path / f"{order}{suffix}", list(order)), ("a", "b"), said.append)
        assert torch.equal(found[:, 1] - found[:, 0], torch.full((20,), 100.0))
        assert said == []
    file = written(tmp_path / f"cba{suffix}", ["c", "b", "a"])
    found = read(file, ("a", "b"), said.append)
    assert torch.equal(found[:, 1] - found[:, 0], torch.full((20,), 100.0))
    assert said == [f"{file}: column 'c' left out; the run was trained without."]
    with pytest.raises(DataError, match=r"has no columns 'd', 'e'\. Columns: c, b, a\."):
        read(file, ("a", "d", "e"), said.append)


@pytest.mark.parametrize("read", [whole, split])
def test_an_array_is_taken_as_it_comes(read: Reader, tmp_path: Path) -> None:
    said: list[str] = []
    file = written(tmp_path / "t.npy", ["b", "a"])
    found = read(file, ("a", "b"), said.append)
    assert torch.equal(found[:, 1] - found[:, 0], torch.full((20,), -100.0))
    assert said == [f"{file}: has no names of columns, so they are taken in their order as columns 'a', 'b'."]
    read(file, ("a", "b", "c"), said.append)
    assert len(said) == 1, "another width is for the flow to refuse"


@pytest.mark.parametrize("read", [whole, split])
def test_a_run_without_names_says_so(read: Reader, tmp_path: Path) -> None:
    said: list[str] = []
    file = written(tmp_path / "t.txt", ["b", "a"])
    data = load_matching(file, None, note=said.append)
    assert data.columns == ("b", "a")
    assert said == [f"{file}: the run knows no names of columns, so they are taken in their order: columns 'b', 'a'."]


def test_splits_of_an_npz_have_no_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", train=ROWS, validation=ROWS, test=ROWS)
    said: list[str] = []
    assert torch.equal(
        load_matching(tmp_path / "own.npz", ("a", "b", "c"), note=said.append).test.double(), torch.from_numpy(ROWS)
    )
    assert "as columns 'a', 'b', 'c'" in said[0]


def test_a_named_set_is_matched_by_name_too() -> None:
    plain, turned = load_matching("moons", ("x1", "x2")), load_matching("moons", ("x2", "x1"))
    assert torch.equal(plain.test, load_dataset("moons").test)
    assert plain.density is not None
    for rows in ("train", "validation", "test"):
        assert torch.equal(getattr(turned, rows), getattr(plain, rows).flip(1))
    assert (turned.columns, turned.density) == (("x2", "x1"), None)
    said: list[str] = []
    assert load_matching("moons", ("x2",), note=said.append).event_shape == (1,)
    assert said == ["moons: column 'x1' left out; the run was trained without."]
    with pytest.raises(DataError, match="moons: has no column 'a'"):
        load_matching("moons", ("a", "x2"))
    assert load_matching("digits", ("a", "b"), size=4, grey=True).event_shape == (1, 8, 8), "shapes are the flow's"


@pytest.mark.parametrize("load", [load_dataset, lambda name: load_matching(name, ("a",))])
def test_a_path_that_cannot_be_read_is_one_line(load: Callable[[str], Dataset], tmp_path: Path) -> None:
    for name, message in [
        (f"{tmp_path}/absent.csv", "no such file or folder"),
        ("x" * 5000 + ".csv", "cannot be read .*File name too long"),
        ("a\0b.csv", "cannot be read .*null byte"),
        ("~nobody_of_this_name/t.csv", "Write the full path"),
    ]:
        with pytest.raises(DataError, match=message):
            load(name)
    with pytest.raises(ConfigurationError, match="unknown data set 'xxx"):
        load("x" * 5000)


def test_errors_call_a_column_by_its_name() -> None:
    rows = torch.ones(3, 2)
    with pytest.raises(DataError, match="nan in row 2, column 'b'"):
        Dataset("mine", rows, rows, torch.tensor([[1, 1], [1, 1], [1, float("nan")]]), columns=("a", "b"))
