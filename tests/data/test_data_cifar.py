"""CIFAR-10 readers: both releases, their archives, and pickles that would run code."""

import collections
import io
import pickle
import struct
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contraflow.data.sets.cifar10 import read_cifar10, read_cifar_binary, read_cifar_python
from contraflow.errors import DataError

NAMES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def batch(seed, rows=3):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, 3072), dtype=np.uint8), random.integers(0, 10, rows)


def binary(pixels, labels):
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


def official_pickle(pixels, labels):
    """Byte for byte the shape of the official files: Python 2 text, protocol 2, numpy 1 names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    raw = pixels.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + number(len(pixels)) + number(3072) + b"\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(number(int(k)) for k in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def modern_pickle(pixels, labels, protocol=2):
    return pickle.dumps({"data": pixels, "labels": [int(k) for k in labels]}, protocol=protocol)


def as_written(pixels, labels):
    return torch.from_numpy(pixels).reshape(-1, 3, 32, 32), torch.from_numpy(labels)


def assert_same(got, pixels, labels):
    images, classes = as_written(pixels, labels)
    assert torch.equal(got[0], images)
    assert torch.equal(got[1], classes)
    assert got[1].dtype == torch.int64


@pytest.mark.parametrize("write", [official_pickle, modern_pickle])
def test_python_batch(write):
    pixels, labels = batch(0)
    assert_same(read_cifar_python(write(pixels, labels), "b"), pixels, labels)


def test_the_imitation_is_a_true_pickle():
    pixels, labels = batch(0)
    loaded = pickle.loads(official_pickle(pixels, labels), encoding="bytes")
    assert np.array_equal(loaded[b"data"], pixels)


def test_binary_batch():
    pixels, labels = batch(1)
    assert_same(read_cifar_binary(binary(pixels, labels), "b"), pixels, labels)


@pytest.mark.parametrize("form", ["bin", "python", "archive of bin", "archive of python"])
def test_every_form_gives_the_same(tmp_path, form):
    suffix, write = (".bin", binary) if "bin" in form else ("", official_pickle)
    contents = {name: write(*batch(seed)) for seed, name in enumerate(NAMES)}
    if form.startswith("archive"):
        paths = [tmp_path / "cifar.tar.gz"]
        with tarfile.open(paths[0], "w:gz") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"cifar-10/{name}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        paths = [tmp_path / f"{name}{suffix}" for name in NAMES]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_bytes(content)
    train, test = read_cifar10(paths)
    assert_same(train, np.concatenate([batch(k)[0] for k in range(5)]), np.concatenate([batch(k)[1] for k in range(5)]))
    assert_same(test, *batch(5))


class RunsCode:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_not_run(tmp_path, protocol):
    mark = tmp_path / "was_here"
    malicious = pickle.dumps({"data": RunsCode(exec, f"open({str(mark)!r}, 'w')"), "labels": []}, protocol=protocol)
    with pytest.raises(DataError, match=r"batch.*builtins__?\.exec|batch.*exec.*not run"):
        read_cifar_python(malicious, "batch")
    assert not mark.exists()


@pytest.mark.parametrize("thing", [collections.OrderedDict(a=1), np.float64(3), np.array([None]), torch.Size])
def test_nothing_but_byte_arrays_is_built(thing):
    with pytest.raises(DataError):
        read_cifar_python(pickle.dumps({"data": thing, "labels": [1]}, protocol=2), "batch")


def test_a_name_with_a_line_break_is_refused_in_one_line():
    with pytest.raises(DataError, match=r"asks for a b\.exec, which data has no need of") as caught:
        read_cifar_python(b"\x80\x04\x8c\x03a\nb\x8c\x04exec\x93.", "batch")
    assert "\n" not in str(caught.value)


def test_a_pickle_cannot_claim_memory():
    with pytest.raises(DataError, match="memo index"):
        read_cifar_python(b"\x80\x02}r" + struct.pack("<I", 2**32 - 2) + b".", "batch")


@pytest.mark.parametrize("doubled", [b"q\x01h\x01\x86", b"2\x86", b"\x94h\x00\x86"])
def test_a_pickle_cannot_double_itself_without_end(doubled):
    # (x, x) again and again: hashing or printing takes 2^levels steps. Twenty end, so that a failure does not hang.
    content = b"\x80\x04}" + b")" + 20 * doubled + b"K\x01s."
    with pytest.raises(DataError, match="used twice"):
        read_cifar_python(content, "batch")


def test_an_archive_cannot_write_or_claim(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../../data_batch_1.bin")
        content = binary(*batch(0))
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("data_batch_2.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="lacks the batches data_batch_2, data_batch_3"):
        read_cifar10([path])
    assert [item.name for item in tmp_path.iterdir()] == ["cifar.tar.gz"]
    assert not (tmp_path.parent.parent / "data_batch_1.bin").exists()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_fuzzed_batches(data):
    pixels, labels = batch(2, rows=2)
    reader, write = data.draw(st.sampled_from([(read_cifar_binary, binary), (read_cifar_python, official_pickle)]))
    content = bytearray(write(pixels, labels))
    for _ in range(data.draw(st.integers(1, 4))):
        # most of the file is pixels: aim at the structure around them as well
        place = data.draw(st.one_of(st.integers(0, 150), st.integers(-40, -1), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, 3073, 100]))])
    with suppress(DataError):
        images, classes = reader(content, "fuzzed")
        assert images.shape == (len(classes), 3, 32, 32)
        assert 0 <= int(classes.min()) <= int(classes.max()) <= 9


@given(content=st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(content):
    for reader in (read_cifar_binary, read_cifar_python):
        with pytest.raises(DataError):
            reader(content, "noise")
