"""Folders of images, and SVHN's MATLAB files."""

import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contraflow.data import load_dataset, read_image_folder
from contraflow.data.formats import matlab
from contraflow.data.formats.matlab import read_matlab
from contraflow.data.sets.svhn import read_svhn
from contraflow.errors import ConfigurationError, DataError


def save(path, height, width, seed=0, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_folder_in_path_order(tmp_path):
    second = save(tmp_path / "b.png", 4, 6, 1)
    first = save(tmp_path / "a" / "z.png", 4, 6, 2)
    (tmp_path / "readme.txt").write_text("not an image")
    images = read_image_folder(tmp_path)
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), np.stack([first, second]).transpose(0, 3, 1, 2))


def test_size_and_grey(tmp_path):
    save(tmp_path / "a.png", 10, 20)
    save(tmp_path / "b.jpg", 30, 12, mode="L")
    assert read_image_folder(tmp_path, size=8).shape == (2, 3, 8, 8)
    assert read_image_folder(tmp_path, size=8, grey=True).shape == (2, 1, 8, 8)
    with pytest.raises(DataError, match=r"b\.jpg: 12 × 30 pixels.*size="):
        read_image_folder(tmp_path)
    with pytest.raises(ConfigurationError, match="size"):
        read_image_folder(tmp_path, size=0)


def test_the_crop_is_the_centre(tmp_path):
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image_folder(tmp_path, size=4, grey=True).unique().tolist() == [200]


def test_broken_images_are_named(tmp_path):
    with pytest.raises(DataError, match="no image file"):
        read_image_folder(tmp_path)
    save(tmp_path / "a.png", 40, 40)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        read_image_folder(tmp_path)
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: more than 8 bits"):
        read_image_folder(tmp_path)


def test_an_image_that_claims_too_many_pixels(tmp_path, monkeypatch):
    save(tmp_path / "a.png", 40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a\.png.*DecompressionBomb"):
        read_image_folder(tmp_path)


def test_an_image_that_claims_more_than_its_file_can_hold(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 9000 9000 255\n" + bytes(300))
    with pytest.raises(DataError, match=r"a\.ppm: claims 9000 × 9000 pixels, which a file of 317 bytes cannot hold"):
        read_image_folder(tmp_path)
    Image.new("L", (3000, 3000)).save(tmp_path / "blank.png")
    path.unlink()
    assert read_image_folder(tmp_path, size=2).shape == (1, 3, 2, 2)


def test_postscript_under_another_name_is_not_handed_to_ghostscript(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: ran.append(arguments))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        read_image_folder(tmp_path)
    assert not ran


def test_a_folder_becomes_a_data_set(tmp_path):
    for k in range(10):
        save(tmp_path / f"{k}.png", 4, 4, k)
    loaded = load_dataset(str(tmp_path))
    assert loaded.is_image
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (8, 1, 1)


def write_svhn(path, rows=6, compressed=True, **changes):
    from scipy.io import savemat

    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, rows), dtype=np.uint8)
    labels = np.arange(5, 5 + rows, dtype=np.uint8)[:, None]
    savemat(path, {"X": images, "y": labels, **changes}, do_compression=compressed)
    return images


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn_label_ten_is_zero(tmp_path, compressed):
    path = tmp_path / "train.mat"
    written = write_svhn(path, compressed=compressed, other=[1.5, 2.5], text="skipped", complex=np.array([1j]))
    images, labels = read_svhn(path)
    assert labels.tolist() == [5, 6, 7, 8, 9, 0]
    assert np.array_equal(images.numpy(), written.transpose(3, 2, 0, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"y": np.zeros((6, 1), np.uint8)},
        {"y": np.ones((5, 1), np.uint8)},
        {"X": np.zeros((3, 32, 32, 6), np.uint8)},
        {"X": np.zeros((32, 32, 3, 6))},
    ],
)
def test_svhn_mismatches(tmp_path, changes):
    path = tmp_path / "train.mat"
    write_svhn(path, **changes)
    with pytest.raises(DataError, match=r"train\.mat"):
        read_svhn(path)


def test_svhn_truncated(tmp_path):
    path = tmp_path / "train.mat"
    write_svhn(path)
    whole = path.read_bytes()
    for length in (0, 50, 130, 1000, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train\.mat"):
            read_svhn(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_svhn_fuzzed(tmp_path, data):
    """Uncompressed, so that the damage meets the structure and not zlib; scipy's own reader can crash here."""
    path = tmp_path / "train.mat"
    write_svhn(path, rows=1, compressed=False, y=np.ones((1, 1)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(120, 200), st.integers(-90, -1)))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(DataError):
        images, labels = read_svhn(path)
        assert images.shape == (len(labels), 3, 32, 32)


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def test_matlab_sizes_are_checked_before_they_are_multiplied(tmp_path):
    flags, name = element(6, struct.pack("<II", 9, 0)), element(1, b"X")
    sizes = element(5, struct.pack("<i", 2**30) * 30_000)
    matrix = element(14, flags + sizes + name + element(2, b"1"))
    path = tmp_path / "m.mat"
    path.write_bytes(b" " * 124 + struct.pack("<H", 0x0100) + b"IM" + matrix)
    start = time.process_time()
    with pytest.raises(DataError, match="X has 30000 dimensions"):
        read_matlab(path)
    assert time.process_time() - start < 2


def test_matlab_variables_share_one_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "_LARGEST", 5000)
    text = element(6, struct.pack("<II", 4, 0)) + bytes(3000)  # a variable of letters, which is passed over
    one = zlib.compress(element(14, text))
    path = tmp_path / "m.mat"
    path.write_bytes(b" " * 124 + struct.pack("<H", 0x0100) + b"IM" + 2 * (struct.pack("<II", 15, len(one)) + one))
    with pytest.raises(DataError, match="larger than 5000 bytes"):
        read_matlab(path)
