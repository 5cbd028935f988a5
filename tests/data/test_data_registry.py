"""The table of data sets, where files are looked for, fetching and checking; and the real files where present."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from contraflow.data import DATASETS, Dataset, check, data_root, fetch, load_dataset
from contraflow.data.download import download
from contraflow.data.known_files import KnownFile
from contraflow.data.sets.power import load_power, read_power_text
from contraflow.errors import ConfigurationError, DataError, OutputError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "data.md"


def gaussian_score(data):
    train = data.train.double()
    gaussian = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
    return float(gaussian.log_prob(data.test.double()).mean())


def test_import_is_light():
    heavy = "{'scipy', 'sklearn', 'PIL', 'pyarrow', 'rich', 'pandas', 'matplotlib'}"
    program = f"import sys, contraflow.data; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_root(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTRAFLOW_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("other") == Path("other")
    monkeypatch.delenv("CONTRAFLOW_DATA")
    assert data_root() == Path.home() / ".cache" / "contraflow"


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if not entry.forms])
def test_sets_that_need_no_files(name):
    loaded, again = load_dataset(name, seed=1), load_dataset(name, seed=1)
    assert torch.equal(loaded.train, again.train)
    assert check(name) == []
    assert fetch(name) == []
    if DATASETS[name].kind == "2-D":
        assert [len(rows) for rows in (loaded.train, loaded.validation, loaded.test)] == [50_000, 10_000, 10_000]
        assert loaded.density.name == name
        assert not torch.equal(loaded.train, load_dataset(name, seed=2).train)


def test_digits():
    loaded = load_dataset("digits", seed=5)
    assert [len(rows) for rows in (loaded.train, loaded.validation, loaded.test)] == [1437, 180, 180]
    assert (loaded.levels, loaded.event_shape, int(loaded.train.max())) == (17, (1, 8, 8), 16)
    assert torch.equal(loaded.train, load_dataset("digits", seed=0).train), "one split for every seed"
    assert set(loaded.test_labels.tolist()) == set(range(10))


def test_names_and_arguments():
    with pytest.raises(ConfigurationError, match=r"'chekerboard'.*'checkerboard'"):
        load_dataset("chekerboard")
    with pytest.raises(ConfigurationError, match="columns="):
        load_dataset("moons", columns=["x1"])
    with pytest.raises(DataError, match="no such file"):
        load_dataset("nowhere/table.csv")
    for function in (check, fetch):
        with pytest.raises(ConfigurationError, match="mnits"):
            function("mnits")


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.forms])
def test_absent_files_list_every_place(name, tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset(name, root=tmp_path)
    message = str(caught.value)
    for form in DATASETS[name].forms:
        for file in form:
            for place in file.places(tmp_path):
                assert str(place) in message
    assert "CONTRAFLOW_DATA" in message
    if DATASETS[name].fetchable:
        assert f"contraflow data fetch {name}" in message
    assert all(status.startswith("absent") for _, status in check(name, tmp_path))


def test_a_folder_is_not_taken_for_a_file(tmp_path):
    (tmp_path / "power_raw.npz").mkdir()
    with pytest.raises(DataError, match="files not found"):
        load_dataset("power", root=tmp_path)


def test_power_cannot_be_fetched(tmp_path):
    with pytest.raises(DataError, match=r"power_raw\.npz"):
        fetch("power", tmp_path)


def test_the_documentation_lists_every_set_and_its_files():
    named_sets = DOCUMENTATION.read_text(encoding="utf-8").partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", named_sets, re.MULTILINE)
    assert [name for name, _, _ in rows] == [name for name, entry in DATASETS.items() if entry.kind != "2-D"]
    for name, files, _ in rows:
        entry = DATASETS[name]
        assert ("fetched" in files) == (entry.fetchable is not None)
        if entry.forms and not entry.fetchable:
            assert all(f"`{file.name}`" in files for form in entry.forms for file in form)


def known_file(source, content, md5=None):
    source.write_bytes(content)
    md5 = md5 or hashlib.md5(content, usedforsecurity=False).hexdigest()
    return KnownFile("a.bin", ("set",), md5, ("file:///does/not/exist", source.as_uri()))


def test_download_tries_the_next_address_and_renames(tmp_path):
    file = known_file(tmp_path / "source", bytes(3_000_000))
    assert download(file, tmp_path / "root").read_bytes() == bytes(3_000_000)
    assert [path.name for path in (tmp_path / "root" / "set").iterdir()] == ["a.bin"]
    (tmp_path / "source").unlink()
    download(file, tmp_path / "root")  # whole already: nothing is asked for


def test_download_replaces_a_broken_copy(tmp_path):
    file = known_file(tmp_path / "source", b"right")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"ri")
    assert download(file, tmp_path).read_bytes() == b"right"


def test_wrong_content_leaves_nothing_behind(tmp_path):
    file = known_file(tmp_path / "source", b"<html>moved</html>", md5="0" * 32)
    with pytest.raises(DataError, match=r"does/not/exist.*md5.*put it at .*a\.bin"):
        download(file, tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_root_that_cannot_be_made(tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        download(known_file(tmp_path / "source", b"x"), tmp_path / "root")


def rows(n=4, d=2):
    return torch.zeros(n, d)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": rows(0)}, "train: expected at least one row, got 0"),
        ({"train": rows(d=3)}, r"train: a row has shape \(3,\)"),
        ({"train": rows().double()}, "train: expected"),
        ({"test": torch.full((4, 2), float("nan"))}, "test: nan in row 0, column 0"),
        ({"test_labels": torch.zeros(3, dtype=torch.int64)}, "test: expected 4 int64 labels"),
        ({"columns": ("a",)}, "1 names"),
        ({"levels": 256}, "expected uint8 images"),
        ({"test_only": True}, "train: expected no rows"),
    ],
)
def test_data_set_checks(changes, message):
    with pytest.raises(DataError, match=message):
        Dataset(**{"name": "d", "train": rows(), "validation": rows(), "test": rows(), **changes})


def test_levels_are_checked():
    image = torch.full((2, 1, 2, 2), 17, dtype=torch.uint8)
    with pytest.raises(DataError, match="pixel 17 found, but levels=17"):
        Dataset("d", image, image, image, levels=17)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.real_data(one)) for one in ("mnist", "fashion_mnist", "cifar10", "svhn")],
)
def test_real_files_have_the_published_sums(name):
    present = [status for _, status in check(name, data_root()) if not status.startswith("absent")]
    assert set(present) == {"ok"}


@pytest.mark.real_data("mnist")
def test_mnist():
    loaded = load_dataset("mnist", root=data_root())
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [55_000, 5_000, 10_000]
    assert loaded.event_shape == (1, 28, 28)
    pixels = torch.cat([loaded.train, loaded.validation]).float() / 255
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx((0.1307, 0.3081), abs=1e-4)
    assert loaded.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.real_data("mnist")
def test_broken_mnist_is_named(tmp_path):
    shutil.copytree(data_root() / "MNIST" / "raw", tmp_path / "MNIST")
    broken = tmp_path / "MNIST" / "train-images-idx3-ubyte.gz"
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        load_dataset("mnist", root=tmp_path)
    assert dict(check("mnist", tmp_path))[str(broken)].startswith("md5 is")


@pytest.mark.real_data("fashion_mnist")
def test_fashion_mnist_without_its_train_files():
    loaded = load_dataset("fashion_mnist", root=data_root())
    assert loaded.event_shape == (1, 28, 28)
    assert len(loaded.test) == 10_000
    if loaded.test_only:
        with pytest.raises(DataError, match="nothing to train on"):
            loaded.require_train()


@pytest.mark.real_data("cifar10")
def test_cifar10():
    loaded = load_dataset("cifar10", root=data_root())
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(loaded.test_labels).tolist() == [1000] * 10


@pytest.mark.real_data("power")
def test_power_as_every_paper_splits_it():
    loaded = load_dataset("power", root=data_root())
    assert [tuple(part.shape) for part in (loaded.train, loaded.validation, loaded.test)] == [
        (1_659_917, 6),
        (184_435, 6),
        (204_928, 6),
    ]
    # published: -7.74; the further digits, from a literal rerun of the recipe, tell this split from another seed's
    assert gaussian_score(loaded) == pytest.approx(-7.74174, abs=2e-5)
    ((_, status), (_, content)) = check("power", data_root())
    assert status.startswith("present")
    assert content.endswith("test rows; a Gaussian scores -7.74 nats a test row, published -7.74")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param(name, error, marks=pytest.mark.real_data(name))
        for name, error in (("gas", 0.75), ("hepmass", 0.02), ("miniboone", 1.07), ("bsds300", None))
    ],
)
def test_published_tables_as_every_paper_prepares_them(name, error):
    """Rows, moments, and the published score of a Gaussian, to within its published error of two standard errors."""
    loaded = load_dataset(name, root=data_root())
    assert (len(loaded.train), len(loaded.validation), len(loaded.test), *loaded.event_shape) == DATASETS[name].shape
    if error is not None:
        fit = torch.cat([loaded.train, loaded.validation, *([loaded.test] if name == "gas" else [])]).double()
        assert fit.mean(0).abs().max() < 1e-4
        assert (fit.std(0) - 1).abs().max() < 1e-3
        assert gaussian_score(loaded) == pytest.approx(DATASETS[name].gaussian, abs=error)


def test_power_from_the_published_text(tmp_path):
    """The text form of the same rows, written as UCI writes them, gives the same numbers."""
    index = np.arange(40)
    rows = np.stack([1.5 + index / 1000, 240 + index / 100, index % 2, index % 3, index % 17], 1)
    lines = ["Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;Sub_1;Sub_2;Sub_3"]
    for minute, (power, voltage, *metering) in enumerate(rows):
        numbers = ";".join(f"{value:.3f}" for value in (power, 0.4, voltage, 18.4, *metering))
        lines.append(f"16/12/2006;01:{minute:02d}:00;{numbers}")
    lines.insert(7, "28/4/2007;00:21:00;?;?;?;?;?;?;")
    path = tmp_path / "household_power_consumption.txt"
    path.write_text("\n".join(lines) + "\n")
    assert np.array_equal(read_power_text(path), np.column_stack([rows, 60 + index]))
    loaded = load_power(path)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [33, 3, 4]
    with pytest.raises(DataError, match=r"33 train, 3 validation and 4 test rows of 6 columns, expected 1,659,917"):
        load_dataset("power", root=tmp_path)
    path.write_text("\n".join([*lines, "17/12/2006;01:00:00;1;2"]))
    with pytest.raises(DataError, match="line 43"):
        load_dataset("power", root=tmp_path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected the header"):
        load_dataset("power", root=tmp_path)


def test_power_refuses_another_file(tmp_path):
    np.savez(tmp_path / "power_raw.npz", d0=np.arange(3))
    with pytest.raises(DataError, match="lacks the arrays d2"):
        load_dataset("power", root=tmp_path)
    columns = {f"d{k}": np.ones(3, np.int16) for k in range(7)}
    np.savez(tmp_path / "power_raw.npz", **columns, runs=np.array([[0, 2]]))
    with pytest.raises(DataError, match="do not add up to 3"):
        load_dataset("power", root=tmp_path)
