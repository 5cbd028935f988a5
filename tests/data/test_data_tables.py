"""CSV, Parquet and numpy files."""

import csv
import io
import json
import pickle
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contraflow.data import load_dataset, read_rows
from contraflow.data.formats.arrays import read_npy, read_npz
from contraflow.data.formats.csv_table import read_csv
from contraflow.data.formats.tables import read_parquet
from contraflow.errors import ConfigurationError, DataError

FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text("abcdefg XYZ,;\"'é", min_size=1, max_size=6).map(str.strip).filter(lambda name: name != "")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@FUZZ
@given(data=st.data())
def test_csv_round_trip(tmp_path, data):
    width = data.draw(st.integers(1, 4))
    names = data.draw(st.lists(NAMES, min_size=width, max_size=width, unique=True))
    rows = data.draw(st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=5))
    text = io.StringIO()
    delimiter = data.draw(st.sampled_from(",;\t|"))
    names = [f"{name}{place}" if name[0] in "abcdefgXYZ" else f"n{name}{place}" for place, name in enumerate(names)]
    if width == 1:  # one column whose name holds a delimiter, unquoted, cannot be told from two columns
        names = [names[0].replace(",", "").replace(";", "")]
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([names, *rows])
    path = tmp_path / "t.csv"
    path.write_bytes(data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.getvalue().encode())
    table = read_csv(path)
    assert table.columns == tuple(names)
    assert np.array_equal(table.values, np.array(rows))


@FUZZ
@given(content=st.one_of(st.binary(max_size=60), st.text('a,;1.5e\n\r" nan-\0', max_size=60).map(str.encode)))
def test_csv_of_anything(tmp_path, content):
    path = tmp_path / "any.csv"
    path.write_bytes(content)
    with suppress(DataError):
        table = read_csv(path)
        assert table.values.shape == (len(table.values), len(table.columns))
        assert np.isfinite(table.values).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header row"),
        ("a,b\n", "no rows"),
        ("1,2\n3,4\n", "first line holds numbers"),
        ("a,b\n1,2\n3,\n", r"line 3, column 'b': expected a finite number, got ''"),
        ("a,b\n1,2\n\n3,NaN\n", r"line 4, column 'b'.*'NaN'"),
        ("a,b\n1,red\n", r"line 2, column 'b'.*'red'"),
        ("a,b\n1,inf\n", r"line 2, column 'b'"),
        ("a,b\n1,2,3\n", r"line 2: expected 2 cells"),
        ("a,a\n1,2\n", "'a' is repeated"),
        ("1.0,nan,3.0\n4,5,6\n", r"first line holds numbers \(1.0, nan, 3.0…\)"),
        ("5.1,NA,1.4\n4,5,6\n", "first line holds numbers"),
        ("1,,3\n4,5,6\n", "first line holds numbers"),
        ("nan\n1\n2\n", "first line holds numbers"),
        ("-inf;1\n1;2\n", r"first line holds numbers .* Add a header row of names above them: x1;x2…"),
        ("0,5;1,25\n0,75;2\n", r"first line holds numbers \(0,5, 1,25…\)"),
        ("1 2\n3 4\n", r"first line holds numbers"),
        (
            "5.1,1.4,setosa\n4,5,setosa\n",
            r"line 2, column 'setosa'.*If the first line is no header \(columns '5.1', '1.4'\)",
        ),
        (
            "a;b\n1;2\n0,126;3\n",
            r"line 3, column 'a': expected a finite number, got '0,126'. Write numbers with a decimal point",
        ),
        ("a;b\n1;1.234,5\n", r"line 2, column 'b'.*decimal point"),
        ("sep=;\na;b\n1;2\n3;x\n", r"line 4, column 'b'"),
        (",a\n0,2\n", r"column 1 has no name \(''\).*index=False"),
        ("Unnamed: 0,a\n0,2\n", r"column 1 has no name \('Unnamed: 0'\).*columns="),
    ],
)
def test_csv_errors_say_where(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(path)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("sep=;\na;b\n1;2\n3;4\n", ("a", "b")),
        ("\ufeffsep=\t\r\na\tb\r\n1\t2\r\n3\t4\r\n", ("a", "b")),
        ('"sep=,"\na,b\n1,2\n3,4\n', ("a", "b")),
        ("sep=|\na,b|c\n1|2\n3|4\n", ("a,b", "c")),
        ("# a b\n1 2\n3 4\n", ("a", "b")),
        ("#a b\n1.0e+00   2\n\n 3\t4 \n", ("a", "b")),
        ("# by somebody\n# in May\n# a,b\n1,2\n3,4\n", ("a", "b")),
        ("# by somebody, in May\na;b\n1;2\n3;4\n", ("a", "b")),
        ("# a b\n\na b\n1 2\n3 4\n", ("a", "b")),
        ("#,b\n1,2\n3,4\n", ("#", "b")),
        ('"a" "b c"\n1 2\n3 4\n', ("a", "b c")),
        ("\na,b\n\n1,2\n3,4\n", ("a", "b")),
        ("Na,2010\n1,2\n3,4\n", ("Na", "2010")),
        ("a (x;y),b (x;y)\n1,2\n3,4\n", ("a (x;y)", "b (x;y)")),
    ],
)
def test_forms_of_csv(tmp_path, text, columns):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = read_csv(path)
    assert table.columns == columns
    assert table.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("delimiter", [" ", ",", "\t", ";"])
@pytest.mark.parametrize("width", [1, 3])
def test_text_of_numpy(tmp_path, delimiter, width):
    """All that savetxt writes: with a header as comment, with a plain one, and in .txt without any."""
    path, numbers = tmp_path / "t.txt", np.random.default_rng(0).normal(size=(5, width))
    names = ("a", "b", "c")[:width]
    header = delimiter.join(names)
    for arguments, columns in [
        ({"header": header}, names),
        ({"header": header, "comments": ""}, names),
        ({"header": "run of May\n" + header}, names),
        ({}, ("x1", "x2", "x3")[:width]),
    ]:
        np.savetxt(path, numbers, delimiter=delimiter, **arguments)
        table = read_csv(path)
        assert (table.columns, table.values.tolist()) == (columns, numbers.tolist())
    np.savetxt(path, numbers, delimiter=delimiter)
    with pytest.raises(DataError, match="has no column 'a'"):
        read_csv(path, columns=["a"])
    path.write_text(f"# {header}\n{delimiter.join(map(str, range(width)))}\n")
    table = read_csv(path)
    assert (table.columns, table.values.tolist()) == (names, [list(range(width))]), "of one row"
    path.write_text("0 1 2\n0.5 0.25 1\n")
    with pytest.raises(DataError, match="first line holds numbers"):
        read_csv(path)
    path.write_text("0.5 nan 2\n0.5 0.25 1\n")
    with pytest.raises(DataError, match="line 1, column 'x2': expected a finite number, got 'nan'"):
        read_csv(path)


def test_csv_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("height;name;weight\n1;anna;2\n3;ben;4\n")
    assert read_csv(path, columns=["weight", "height"]).values.tolist() == [[2, 1], [4, 3]]
    with pytest.raises(DataError, match=r"no column 'wieght'\. Did you mean 'weight'"):
        read_csv(path, columns=["wieght"])
    with pytest.raises(DataError, match=r"no columns 'x', 'z'\. Columns: height, name, weight"):
        read_csv(path, columns=["x", "height", "z"])
    with pytest.raises(DataError, match=r"no column 'WEIGHT'\. Did you mean 'weight'"):
        read_csv(path, columns=["WEIGHT"])
    assert read_csv(path, columns=["weight"]).left_out == ("height", "name")
    path.write_text(",a,b,b\n0,1,2,3\n")
    assert read_csv(path, columns=["a"]).values.tolist() == [[1]], "what is not asked for may have no name, or two"
    with pytest.raises(DataError, match="'b' is repeated"):
        read_csv(path, columns=["b"])
    path.write_text("Unnamed: 0,a\n0,1\n")
    assert read_csv(path, columns=["Unnamed: 0"]).values.tolist() == [[0]], "it was asked for"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_half_precision_in_a_file_is_read_exactly(tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    numbers = np.array([[6e-8, -65504.0], [0.1, 2.0**-14], [1 / 3, -0.0]], dtype=np.float16)
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"a": numbers[:, 0], "b": numbers[:, 1]}), path)
    else:
        np.save(path, numbers) if suffix == ".npy" else np.savez(path, numbers)
    rows = read_rows(path)
    assert rows.dtype == (torch.float64 if suffix == ".parquet" else torch.float32)
    assert rows.tolist() == numbers.tolist()


def test_all_digits_of_a_number_reach_the_rows(tmp_path):
    seconds = np.arange(1_700_000_000, 1_700_000_010, dtype=np.int64)[:, None]
    np.save(tmp_path / "whole.npy", seconds)
    np.save(tmp_path / "real.npy", seconds + 0.125)
    np.savetxt(tmp_path / "real.csv", seconds + 0.125, header="time", comments="", fmt="%.3f")
    assert read_rows(tmp_path / "whole.npy").flatten().tolist() == seconds.flatten().tolist()
    for name in ("real.npy", "real.csv"):
        assert read_rows(tmp_path / name).flatten().tolist() == (seconds + 0.125).flatten().tolist()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": [1, 2], "b": [0.5, 1.5], "c": ["x", "y"], "d": [1, None]}), path)
    assert read_parquet(path, columns=["b", "a"]).values.tolist() == [[0.5, 1], [1.5, 2]]
    for columns, message in [(None, "'c' holds string"), (["d"], "lacks 1 values"), (["e"], "no column 'e'")]:
        with pytest.raises(DataError, match=message):
            read_parquet(path, columns=columns)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_parquet(path)


def pandas_parquet(path, columns, index_columns):
    """A file with the metadata of pandas, which is not installed here; without any where `index_columns` is None."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if index_columns is not None:
        metadata = {"index_columns": index_columns, "column_indexes": [], "columns": [], "pandas_version": "2.2.0"}
        table = table.replace_schema_metadata({"pandas": json.dumps(metadata)})
    parquet.write_table(table, path)
    return path


RANGE = {"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}


@pytest.mark.parametrize(
    ("index", "index_columns"),
    [
        ("__index_level_0__", ["__index_level_0__"]),
        ("id", ["id"]),
        ("__index_level_0__", None),
        ("__index_level_1__", [RANGE]),
    ],
)
def test_the_index_of_pandas_is_no_column(tmp_path, index, index_columns):
    path = pandas_parquet(tmp_path / "t.parquet", {"a": [1.5, 2], index: [7, 3], "b": [0.5, 1]}, index_columns)
    table = read_parquet(path)
    assert (table.columns, table.values.tolist(), table.left_out) == (("a", "b"), [[1.5, 0.5], [2, 1]], (index,))
    assert read_parquet(path, columns=[index]).values.tolist() == [[7], [3]], "unless it is asked for"
    alone = pandas_parquet(tmp_path / "alone.parquet", {index: [7, 3]}, index_columns)
    with pytest.raises(DataError, match="at least one, got none"):
        read_parquet(alone)


def test_an_index_that_is_not_stored_leaves_all_columns(tmp_path):
    path = pandas_parquet(tmp_path / "t.parquet", {"a": [1.5, 2], "id": [7, 3]}, [RANGE])
    assert read_parquet(path).columns == ("a", "id")


def test_large_integers_are_read_from_parquet_as_from_csv(tmp_path):
    nanoseconds = [1_700_000_000_123_456_789, 1_700_000_060_123_456_789]
    path = pandas_parquet(tmp_path / "t.parquet", {"time": nanoseconds}, None)
    (tmp_path / "t.csv").write_text("time\n" + "".join(f"{one}\n" for one in nanoseconds))
    assert read_parquet(path).values.tolist() == read_csv(tmp_path / "t.csv").values.tolist()
    assert read_parquet(path).values[:, 0].tolist() == [float(one) for one in nanoseconds]


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@FUZZ
@given(data=st.data())
def test_npy_fuzzed(tmp_path, data):
    content = bytearray(npy_bytes(np.arange(12.0).reshape(3, 4)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    path = tmp_path / "f.npy"
    path.write_bytes(content)
    with suppress(DataError):
        assert read_npy(path).nbytes <= len(content)


def test_npy_claiming_too_much(tmp_path):
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**40)}).encode().ljust(117) + b"\n"
    path = tmp_path / "big.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    with pytest.raises(DataError, match="the header claims"):
        read_npy(path)


def test_objects_are_not_unpickled(tmp_path):
    class Boom:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    path = tmp_path / "o.npy"
    path.write_bytes(npy_bytes(np.array([1]))[:0] + _object_npy(Boom()))
    with pytest.raises(DataError, match="Python objects"):
        read_npy(path)


def _object_npy(thing):
    header = repr({"descr": "|O", "fortran_order": False, "shape": (1,)}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps([thing])


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, first=np.arange(6), second=np.ones((2, 2)))
    arrays = read_npz(path)
    assert arrays["first"].tolist() == list(range(6))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a\.npz"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(DataError, match=r"a\.npz"):
        read_npz(path)


def test_members_of_an_npz_that_overlap_cannot_claim_the_file_again_and_again(tmp_path):
    """A directory that names one member fifty times, each as large as the file can hold."""
    path = tmp_path / "bomb.npz"
    zeros = np.zeros(2_000_000, np.uint8)
    np.savez_compressed(path, a=zeros)
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist += [archive.filelist[0]] * 50
        archive._didModify = True
    with pytest.raises(DataError, match=r"bomb\.npz: claims 1\d{8} bytes, which a file of this length cannot hold"):
        read_npz(path)


def test_a_table_becomes_a_data_set_split_by_seed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{k},{k * k}\n" for k in range(40)))
    first, again, other = (load_dataset(path, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [32, 4, 4]
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.train, other.train)
    every = torch.cat([first.train, first.validation, first.test])[:, 0]
    assert sorted(every.tolist()) == list(range(40))
    assert first.columns == ("a", "b")
    assert load_dataset(path, columns=["b"]).event_shape == (1,)


def test_arrays_become_data_sets(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    loaded = load_dataset(tmp_path / "images.npy")
    assert loaded.event_shape == (3, 4, 5)
    assert loaded.levels == 256
    np.savez(tmp_path / "own.npz", train=np.ones((3, 2)), validation=np.zeros((1, 2)), test=np.ones((2, 2)))
    assert len(load_dataset(tmp_path / "own.npz").train) == 3
    np.save(tmp_path / "large.npy", np.full((20, 2), 1e300))
    assert load_dataset(tmp_path / "large.npy").train[0, 0].item() == 1e300
    np.save(tmp_path / "large.npy", np.full((20, 2), np.inf))
    with pytest.raises(DataError, match="column 0 is inf, not a finite number in float64"):
        load_dataset(tmp_path / "large.npy")
    np.save(tmp_path / "few.npy", np.ones((9, 2)))
    with pytest.raises(DataError, match="9 rows"):
        load_dataset(tmp_path / "few.npy")
    with pytest.raises(ConfigurationError, match="columns= is for tables"):
        load_dataset(tmp_path / "few.npy", columns=["a"])
