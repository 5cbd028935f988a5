"""GAS, HEPMASS, MINIBOONE, BSDS300 and POWER from small files of the formats in which they are published."""

from __future__ import annotations

import gzip
import pickle
import re
import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contraflow.data import DATASETS, check, load_dataset
from contraflow.data.formats.pickled_frame import read_pickled_frame
from contraflow.data.sets.celeba64 import read_celeba64, split_celeba64
from contraflow.data.sets.gas import load_gas, uncorrelated
from contraflow.data.sets.hepmass import load_hepmass
from contraflow.data.sets.miniboone import load_miniboone
from contraflow.data.sets.power import load_power
from contraflow.errors import DataError

TABLES = {
    "gas": (852_174, 94_685, 105_206, 8),
    "hepmass": (315_123, 35_013, 174_987, 21),
    "miniboone": (29_556, 3_284, 3_648, 43),
    "bsds300": (1_000_000, 50_000, 250_000, 63),
    "power": (1_659_917, 184_435, 204_928, 6),
}


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def sensors(rows: int) -> np.ndarray:
    """Sixteen columns, of which those at odd places follow the one before them."""
    random = generator()
    independent = random.normal(2, 3, (rows, 8))
    followers = independent + 0.1 * random.normal(size=(rows, 8)) * [[1, 1, 1, 1, 1, 1, 1, 9]]
    return np.stack([independent, followers], axis=2).reshape(rows, 16)


def sizes(data) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


# --- what pandas 0.20 wrote under Python 2: its classes by name, and the calls that it makes of them

MODULES = {
    "pandas.core.frame": ["DataFrame"],
    "pandas.core.internals": ["BlockManager"],
    "pandas.indexes.base": ["Index", "_new_Index"],
    "pandas.indexes.numeric": ["Int64Index"],
}


@pytest.fixture
def old_pandas(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    return classes_of_old_pandas(monkeypatch)


def classes_of_old_pandas(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Stand-ins under the names of pandas 0.20, for writing pickles only."""
    classes = {}
    for module in ["pandas", "pandas.core", "pandas.indexes", *MODULES]:
        made = types.ModuleType(module)
        for name in MODULES.get(module, ()):
            classes[name] = type(name, (), {"__module__": module})
            setattr(made, name, classes[name])
        monkeypatch.setitem(sys.modules, module, made)

    def new_index(cls, values):
        raise AssertionError("only its name is written")

    new_index.__module__, new_index.__qualname__ = "pandas.indexes.base", "_new_Index"
    sys.modules["pandas.indexes.base"]._new_Index = new_index
    for name in ("Index", "Int64Index"):
        classes[name].__reduce__ = lambda self: (new_index, (type(self), {"data": self.data, "name": None}), None)
    for name in ("DataFrame", "BlockManager"):
        classes[name].__getstate__ = lambda self: self.written
        classes[name].__setstate__ = lambda self, state: None
        classes[name].__reduce_ex__ = lambda self, protocol: object.__reduce_ex__(self, 2)
    return classes


def frame_pickle(classes: dict[str, type], values: np.ndarray, names: list[str], protocol: int = 2) -> bytes:
    """A DataFrame of two blocks: the first column by itself, in integers' place, and the others."""

    def made(name: str, **attributes: object) -> object:
        one = classes[name]()
        vars(one).update(attributes)
        return one

    axes = [made("Index", data=np.array(names, object)), made("Int64Index", data=np.arange(len(values))[::-1].copy())]
    places = [slice(1, len(names), 1), np.array([0])]
    blocks = [np.asfortranarray(values[:, place].T) for place in places]
    items = [made("Index", data=np.array(names, object)[place]) for place in places]
    listed = [{"values": block, "mgr_locs": place} for block, place in zip(blocks, places, strict=True)]
    state = (axes, blocks, items, {"0.14.1": {"axes": axes, "blocks": listed}})
    manager = made("BlockManager", written=state)
    frame = made("DataFrame", written={"_data": manager, "_typ": "dataframe", "_metadata": []})
    return pickle.dumps(frame, protocol)


GAS_NAMES = ["Time", "Meth", "Eth", *(f"R{number}" for number in range(1, 17))]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickled_frames_are_read_without_pandas(old_pandas, tmp_path, monkeypatch, protocol):
    values, path = generator().normal(size=(7, 19)), tmp_path / "frame.pickle"
    path.write_bytes(frame_pickle(old_pandas, values, GAS_NAMES, protocol))
    for name in [one for one in sys.modules if one.partition(".")[0] == "pandas"]:
        monkeypatch.setitem(sys.modules, name, None)
    table = read_pickled_frame(path)
    assert table.columns == tuple(GAS_NAMES)
    np.testing.assert_array_equal(table.values, values)


def test_texts_of_python_2_are_understood(old_pandas, tmp_path):
    """The same pickle with every text as Python 2 writes it: as bytes of a known length."""
    content = frame_pickle(old_pandas, generator().normal(size=(3, 19)), GAS_NAMES)
    for text in (*GAS_NAMES, "data", "_data", "0.14.1", "axes", "blocks", "values", "mgr_locs", "_typ"):
        written = text.encode()
        content = content.replace(
            b"X" + len(written).to_bytes(4, "little") + written, b"U" + bytes([len(written)]) + written
        )
    path = tmp_path / "frame.pickle"
    path.write_bytes(content)
    assert read_pickled_frame(path).columns == tuple(GAS_NAMES)


class _Harmful:
    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_Harmful(), "asks for __builtin__.print"),
        ({"_data": _Harmful()}, "asks for __builtin__.print"),
        ([1, 2], "a list is inside"),
        ("text", "a str is inside"),
    ],
    ids=["print", "print in a dictionary", "list", "text"],
)
def test_other_pickles_are_refused_and_not_run(tmp_path, capsys, content, reason):
    path = tmp_path / "ethylene_CO.pickle"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match=rf"ethylene_CO\.pickle: expected a pickle of a pandas\.DataFrame.*{reason}"):
        load_gas(path)
    assert capsys.readouterr().out == ""


def test_a_frame_of_todays_pandas_is_refused(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not needed otherwise")
    path = tmp_path / "frame.pickle"
    pandas.DataFrame(np.zeros((3, 2)), columns=["a", "b"]).to_pickle(path)
    with pytest.raises(DataError, match=r"written by pandas 0\.14\.1 to 1\.2"):
        read_pickled_frame(path)


# --- GAS


def expected_gas(rows: np.ndarray) -> np.ndarray:
    rows = (rows - rows.mean(0)) / rows.std(0, ddof=1)
    return rows[:, [1, 3, 5, 7, 9, 11, 13, 14, 15]]  # the last pair correlates by less


def test_gas_from_the_archive(old_pandas, tmp_path):
    rows = sensors(500)
    values = np.concatenate([np.arange(1500.0).reshape(500, 3), rows], axis=1)
    path = tmp_path / "ethylene_CO.pickle"
    path.write_bytes(frame_pickle(old_pandas, values, GAS_NAMES))
    data = load_gas(path)
    expected = expected_gas(rows).astype(np.float32)
    assert sizes(data) == [405, 45, 50]
    np.testing.assert_array_equal(np.concatenate([data.train, data.validation, data.test]), expected)
    assert data.columns == tuple(f"sensor_{place}" for place in (2, 4, 6, 8, 10, 12, 14, 15, 16))
    path.write_bytes(frame_pickle(old_pandas, values, ["time", *GAS_NAMES[1:]]))
    with pytest.raises(DataError, match="lacks the columns Time"):
        load_gas(path)


def test_gas_from_uci(tmp_path):
    """A quarter of the rows, each once, in another order than in the file."""
    rows = sensors(2000)
    lines = ["Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels)"]
    lines += [
        f"{place / 100:.2f}    0.00    0.00   " + "   ".join(map(repr, row.tolist())) for place, row in enumerate(rows)
    ]
    path = tmp_path / "ethylene_CO.txt"
    path.write_text("\r\n".join(lines) + "\r\n")
    data = load_gas(path)
    assert sizes(data) == [405, 45, 50]
    found = np.concatenate([data.train, data.validation, data.test])
    np.testing.assert_allclose([found.mean(0), found.std(0, ddof=1)], [[0.0] * 9, [1.0] * 9], atol=1e-5)
    # by the last column, which no two rows share: the rows of the file in another scale
    order = np.argsort(rows[:, -1])
    places = order[
        np.searchsorted(rows[order, -1], found[:, -1] * rows[:, -1].std() + rows[:, -1].mean()).clip(max=1999)
    ]
    assert len(set(places.tolist())) > 400
    assert not (np.diff(places) > 0).all()
    path.write_text("\n".join([*lines[:5], "1 2 three"]))
    with pytest.raises(DataError, match=r"ethylene_CO\.txt: expected one row of numbers a line"):
        load_gas(path)
    path.write_text("a b c\n" + "\n".join(lines[1:]))
    with pytest.raises(DataError, match=r"expected a first line Time \(seconds\)"):
        load_gas(path)


def test_correlated_columns_go_one_by_one():
    """Of three that go together the last stays; a negative correlation is none, as in the authors' code."""
    one, two = generator().normal(size=(2, 50))
    assert uncorrelated(np.stack([one, two, one + 1, -one, 2 * one], axis=1)) == [1, 3, 4]


# --- HEPMASS


def write_hepmass(folder: Path, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Files of UCI's form, and what the published task makes of them."""
    random, features = generator(), {}
    for split, count in (("train", 400), ("test", 120)):
        values = random.normal(5, 2, (count, 27))
        values[:, 3] = random.integers(0, 2, count)  # number of jets, b-tags: the smallest value repeats
        values[: count // 10, 8] = -7
        values[:3, 11] = values[:6, 12] = -9  # three and six rows share the smallest value
        labels = np.arange(count) % 2
        header = ",".join(["# label", *(f"f{place}" for place in range(27)), *(["mass"] if split == "test" else [])])
        lines = [
            ",".join([f"{label:.18e}", *map(repr, row)]) for label, row in zip(labels, values.tolist(), strict=True)
        ]
        text = "\n".join([header, *lines]) + "\n"
        path = folder / f"1000_{split}.csv{suffix}"
        path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
        features[split] = values[labels == 1]
    return features["train"], features["test"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_hepmass(tmp_path, suffix):
    train, test = write_hepmass(tmp_path, suffix)
    data = load_hepmass(tmp_path / f"1000_train.csv{suffix}", tmp_path / f"1000_test.csv{suffix}")
    # the authors count the values and look at the smallest
    kept = [place for place in range(27) if Counter(train[:, place].tolist())[train[:, place].min()] <= 5]
    assert kept == [place for place in range(27) if place not in (3, 8)]
    mean, deviation = train[:, kept].mean(0), train[:, kept].std(0, ddof=1)
    assert sizes(data) == [180, 20, 60]
    found = np.concatenate([data.train, data.validation, data.test])
    expected = (np.concatenate([train, test])[:, kept] - mean) / deviation
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert data.columns == tuple(f"f{place}" for place in kept)


def test_hepmass_reads_the_first_tenth(tmp_path, monkeypatch):
    write_hepmass(tmp_path)
    monkeypatch.setattr("contraflow.data.sets.hepmass._TRAIN_ROWS", 100)
    assert sizes(load_hepmass(tmp_path / "1000_train.csv", tmp_path / "1000_test.csv")) == [45, 5, 60]


def test_hepmass_refuses_other_files(tmp_path):
    write_hepmass(tmp_path)
    train, test = tmp_path / "1000_train.csv", tmp_path / "1000_test.csv"
    whole = test.read_text()
    for text, message in (
        (whole.replace("# label", "mass"), "expected a header that begins with # label"),
        (re.sub(r"\n[^\n]*$", "", whole[:-300]) + "\n1,2,3\n", "expected one row of numbers"),
        (whole.partition("\n")[0], "no rows below"),
        (whole.partition("\n")[0] + "\n" + ",".join(["0.0"] * 28), "no row of signal"),
        (whole.partition("\n")[0] + "\n" + ",".join(["1.0"] * 27 + ["nan"]), "line 2, column 28: not a finite number"),
        (whole + "1," * 20_000, "a line of 10000 characters"),
    ):
        test.write_text(text)
        with pytest.raises(DataError, match=rf"1000_test\.csv.*{message}"):
            load_hepmass(train, test)
    compressed = tmp_path / "1000_test.csv.gz"
    compressed.write_bytes(gzip.compress(whole.encode())[:-100])
    with pytest.raises(DataError, match="expected one row of numbers"):
        load_hepmass(train, compressed)


# --- MINIBOONE


def miniboone_rows(signal: int) -> np.ndarray:
    """Fifty columns with seven in which a value repeats; the third and the tenth row were not measured."""
    rows = generator().normal(3, 2, (signal + 60, 50))
    rows[:, 5:40:5] = np.maximum(rows[:, 5:40:5], 3.0)
    rows[[2, 9, signal + 5]] = -999
    return rows


def test_miniboone_from_uci_and_from_the_archive(tmp_path):
    rows = miniboone_rows(signal=202)
    text = tmp_path / "MiniBooNE_PID.txt"
    text.write_text("    202    60\n" + "\n".join("   ".join(map(repr, row)) for row in rows.tolist()) + "\n")
    signal = np.delete(rows[:202], [2, 9], axis=0)
    signal = np.delete(signal, range(5, 40, 5), axis=1)
    archive = tmp_path / "data.npy"
    np.save(archive, signal)
    fit = signal[:180]
    expected = ((signal - fit.mean(0)) / fit.std(0)).astype(np.float32)
    for path in (text, archive):
        data = load_miniboone(path)
        assert sizes(data) == [162, 18, 20]
        np.testing.assert_array_equal(np.concatenate([data.train, data.validation, data.test]), expected)
    text.write_text(text.read_text().replace("    60\n", "    61\n", 1))
    with pytest.raises(DataError, match=r"signal and background, together 262 rows, got '202    61'"):
        load_miniboone(text)
    np.save(archive, signal[:, :42])
    with pytest.raises(DataError, match=r"expected numbers of shape \(n, 43\), got float64 \(200, 42\)"):
        load_miniboone(archive)
    signal[7, 1] = np.inf
    np.save(archive, signal)
    with pytest.raises(DataError, match="row 7, column 2 is inf"):
        load_miniboone(archive)
    np.save(archive, np.zeros((40, 43)))
    with pytest.raises(DataError, match="column 1 is constant in 36 rows"):
        load_miniboone(archive)


# --- POWER and BSDS300


def test_power_from_the_archive(tmp_path):
    """The same rows in UCI's text and in the archive's array give the same numbers."""
    count = 40
    kept = np.stack(
        [np.arange(count) / 1000, 240 + np.arange(count) / 100, *(np.arange(count) % k for k in (2, 3, 17))], 1
    )
    minutes = 60.0 + np.arange(count)
    lines = ["Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;Sub_1;Sub_2;Sub_3"]
    for minute, (power, voltage, *metering) in enumerate(kept):
        lines.append(f"16/12/2006;01:{minute:02d}:00;{power};0.4;{voltage};18.4;" + ";".join(map(str, metering)))
    (tmp_path / "household_power_consumption.txt").write_text("\n".join(lines) + "\n")
    array = np.column_stack([kept[:, 0], np.full(count, 0.4), kept[:, 1], np.full(count, 18.4), kept[:, 2:], minutes])
    np.save(tmp_path / "data.npy", array)
    from_text, from_array = load_power(tmp_path / "household_power_consumption.txt"), load_power(tmp_path / "data.npy")
    for split in ("train", "validation", "test"):
        np.testing.assert_allclose(getattr(from_array, split), getattr(from_text, split), rtol=1e-6, atol=1e-6)


def write_bsds300(path: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    h5py = pytest.importorskip("h5py", reason="reading BSDS300 needs h5py")
    random = generator()
    arrays = {split: random.normal(size=(n, 63)) for split, n in (("train", 8), ("validation", 3), ("test", 4))}
    arrays |= changes
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return arrays


def test_bsds300(tmp_path, monkeypatch):
    (tmp_path / "BSDS300").mkdir()
    arrays = write_bsds300(tmp_path / "BSDS300" / "BSDS300.hdf5")
    with pytest.raises(
        DataError, match=r"8 train, 3 validation and 4 test rows of 63 columns, expected 1,000,000 train"
    ):
        load_dataset("bsds300", root=tmp_path)
    monkeypatch.setitem(DATASETS, "bsds300", replace(DATASETS["bsds300"], shape=(8, 3, 4, 63)))
    data = load_dataset("bsds300", root=tmp_path)
    for split, values in arrays.items():
        np.testing.assert_array_equal(getattr(data, split), values.astype(np.float32))


def test_bsds300_refuses_other_files(tmp_path):
    h5py = pytest.importorskip("h5py", reason="reading BSDS300 needs h5py")
    from contraflow.data.sets.bsds300 import load_bsds300

    path = tmp_path / "BSDS300.hdf5"
    write_bsds300(path, test=np.zeros((4, 64)))
    with pytest.raises(DataError, match=r"BSDS300\.hdf5:test: expected numbers of shape \(n, 63\)"):
        load_bsds300(path)
    with h5py.File(path, "w") as file:
        file["train"], file["validation"] = np.zeros((2, 63)), np.zeros((2, 63))
    with pytest.raises(DataError, match="lacks test; it holds train, validation"):
        load_bsds300(path)
    with h5py.File(path, "a") as file:
        file["test"] = h5py.ExternalLink("/etc/passwd", "/test")
    with pytest.raises(DataError):
        load_bsds300(path)
    write_bsds300(tmp_path / "other.hdf5")
    with h5py.File(path, "a") as file:
        del file["test"]
        file["test"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/test")
    with pytest.raises(DataError, match="test is not an array in this file"):
        load_bsds300(path)
    with h5py.File(path, "a") as file:
        del file["test"]
        file.create_dataset("test", shape=(10**9, 63), chunks=(1000, 63), dtype="f4")
    with pytest.raises(DataError, match="test claims 252000000000 bytes"):
        load_bsds300(path)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="expected an HDF5 file"):
        load_bsds300(path)


def test_bsds300_says_what_it_needs(tmp_path, monkeypatch):
    from contraflow.data.sets.bsds300 import load_bsds300

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"reading HDF5 needs h5py: pip install 'contraflow\[hdf5\]'"):
        load_bsds300(tmp_path / "BSDS300.hdf5")


# --- the table of data sets


@pytest.mark.parametrize("name", TABLES)
def test_the_published_number_of_rows(name):
    assert DATASETS[name].shape == TABLES[name]
    rows, about = TABLES[name], DATASETS[name].load.__doc__
    assert re.search(rf"{rows[0]:,} train, {rows[1]:,} validation, {rows[2]:,} test", about)


def test_check_says_what_is_wrong(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "hepmass"
    ((name, status), (_, other)) = check("hepmass", tmp_path)
    assert name == str(tmp_path / "hepmass" / "1000_train.csv")
    assert status == f"absent, and not at {folder / '1000_train.csv'} or {tmp_path / '1000_train.csv'} either"
    assert other.startswith("absent")
    folder.mkdir(parents=True)
    write_hepmass(folder)
    *_, (about, rows) = check("hepmass", tmp_path)
    assert about == "hepmass"
    assert rows.startswith(
        "data set 'hepmass': 180 train, 20 validation and 60 test rows of 25 columns, expected 315,123"
    )
    monkeypatch.setitem(DATASETS, "hepmass", replace(DATASETS["hepmass"], shape=(180, 20, 60, 25)))
    *_, (_, rows) = check("hepmass", tmp_path)
    data = load_dataset("hepmass", root=tmp_path)
    away = data.test.double().numpy() - data.train.double().numpy().mean(0)
    covariance = np.cov(data.train.double().numpy().T)
    squares = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away).mean()
    score = -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
    counts = "ok, 180 train, 20 validation and 60 test rows"
    assert rows == f"{counts}; a Gaussian scores {score:.2f} nats a test row, published -27.93"
    (folder / "1000_test.csv").unlink()
    statuses = dict(check("hepmass", tmp_path))
    assert statuses[str(folder / "1000_train.csv")].startswith("present")
    assert statuses[str(tmp_path / "hepmass" / "1000_test.csv")].startswith("absent")
    assert "hepmass" not in statuses


# --- CelebA 64


def test_celeba64(tmp_path, monkeypatch):
    images = generator().integers(0, 32, (9, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "celeba_full_64x64_5bit.npy"
    np.save(path, images)
    with pytest.raises(DataError, match="9 images, expected more than the 6000 of test and validation"):
        load_dataset("celeba64", root=tmp_path)
    monkeypatch.setattr("contraflow.data.sets.celeba64.TEST_FACES", 4)
    monkeypatch.setattr("contraflow.data.sets.celeba64.VALIDATION_FACES", 2)
    data = load_dataset("celeba64", root=tmp_path)
    assert (sizes(data), data.levels, data.event_shape) == ([3, 2, 4], 32, (3, 64, 64))
    found = np.concatenate([data.test, data.train, data.validation])
    np.testing.assert_array_equal(found, images.transpose(0, 3, 1, 2))
    np.save(path, images[..., 0])
    with pytest.raises(DataError, match=r"expected uint8 images \(n, 64, 64, 3\)"):
        read_celeba64(path)
    with pytest.raises(DataError, match="levels=32"):
        split_celeba64(data.train.new_full((9, 3, 64, 64), 32))
