"""The idx reader: the right array, or a DataError, for any bytes whatever."""

import gzip
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contraflow.data.formats.idx import read_idx
from contraflow.errors import DataError

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads_what_was_written(tmp_path, array, name):
    content = idx_bytes(array)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert np.array_equal(read_idx(path, dimensions=3).numpy(), array)


def test_header_that_claims_two_billion_images(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 28, 28) + b"\0" * 1000))
    with pytest.raises(DataError, match=r"images\.gz.*2147483648.*cannot hold"):
        read_idx(path, dimensions=3)


def test_decompression_stops_at_the_claimed_size(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((1, 2, 2), np.uint8)) + bytes(200 << 20)))
    with pytest.raises(DataError, match="but more came"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "expected gzip data"),
        (gzip.compress(b"\0\0\x0d\x03" + bytes(12)), "idx file of bytes"),
        (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes(3)), "swapped"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "truncated inside the header"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(12)), "holds nothing"),
        (gzip.compress(idx_bytes(np.ones((4, 5, 6), np.uint8)))[:-9], "truncated"),
        (gzip.compress(idx_bytes(np.ones((4, 5, 6), np.uint8))[:-1]), "only 119 came"),
    ],
    ids=["empty", "html", "floats", "labels", "short header", "no images", "short gzip", "short images"],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)


def test_absent_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "nothing", dimensions=1)


@FUZZ
@given(data=st.data())
def test_any_corruption_is_a_data_error_or_the_right_size(tmp_path, array, data):
    content = bytearray(idx_bytes(array))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))]) + data.draw(st.binary(max_size=4))
    if data.draw(st.booleans()):
        packed = bytearray(gzip.compress(content))
        packed[data.draw(st.integers(2, len(packed) - 1))] ^= data.draw(st.integers(0, 255))
        content = bytes(packed)
    path = tmp_path / "fuzzed"
    path.write_bytes(content)
    with suppress(DataError):
        result = read_idx(path, dimensions=3)
        assert result.dim() == 3
        assert result.numel() > 0
