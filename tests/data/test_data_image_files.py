"""What an image file or an array of images holds is read in full, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contraflow.data import read_image_folder
from contraflow.data.path_dataset import read_rows
from contraflow.errors import ConfigurationError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def dark(channels: int) -> np.ndarray:
    """A photograph of 16 bits whose upper 8 are zero."""
    return np.random.default_rng(0).integers(0, 200, (6, 8, channels))


def png_of_16_bits(channels: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in dark(channels))
    header = struct.pack(">IIBBBBB", 8, 6, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, sample_format: int, photometric: int) -> bytes:
    """One strip, little-endian, numbers of one kind in all channels."""
    height, width, channels = pixels.shape
    content, bits = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), 8 * pixels.dtype.itemsize
    tags = [(256, [width]), (257, [height]), (258, [bits] * channels), (259, [1]), (262, [photometric]), (273, [8])]
    tags += [(277, [channels]), (278, [height]), (279, [len(content)]), (339, [sample_format] * channels)]
    start = 8 + len(content)
    beyond, entries, after = start + 2 + 12 * len(tags) + 4, b"", b""
    for tag, values in tags:
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, after = struct.pack("<I", beyond + len(after)), after + packed
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", start) + content + struct.pack("<H", len(tags)) + entries + bytes(4) + after


def pnm(kind: str, largest: int, numbers: bytes) -> bytes:
    return f"{kind}\n8 6\n{largest}\n".encode() + numbers


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def several(kind: str) -> bytes:
    return saved(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(180)])


def read(folder: Path, content: bytes, suffix: str) -> torch.Tensor:
    (folder / f"a.{suffix}").write_bytes(content)
    return read_image_folder(folder)


DEEP = {
    "png grey": (png_of_16_bits(1), "png"),
    "png grey and alpha": (png_of_16_bits(2), "png"),
    "png colour": (png_of_16_bits(3), "png"),
    "png colour and alpha": (png_of_16_bits(4), "png"),
    "ppm": (pnm("P6", 65535, dark(3).astype(">u2").tobytes()), "ppm"),
    "ppm of 300 levels": (pnm("P6", 299, dark(3).astype(">u2").tobytes()), "ppm"),
    "ppm in letters": (pnm("P3", 65535, " ".join(map(str, dark(3).ravel())).encode()), "ppm"),
    "pgm": (pnm("P5", 65535, dark(1).astype(">u2").tobytes()), "pgm"),
    "tiff grey": (tiff(dark(1).astype("u2"), 1, 1), "tif"),
    "tiff colour": (tiff(dark(3).astype("u2"), 1, 2), "tif"),
    "tiff cmyk": (tiff(dark(4).astype("u2"), 1, 5), "tif"),
    "tiff of floats": (tiff(dark(1).astype("f4"), 3, 1), "tif"),
    "tiff of 32 bits": (tiff(dark(1).astype("u4"), 1, 1), "tif"),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_a_channel_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a\.\w+: more than 8 bits a channel .*Convert it to 8 bits"):
        read(tmp_path, *DEEP[name])


def test_the_same_files_of_8_bits_are_read_to_the_bit(tmp_path: Path) -> None:
    """The oracle for the test above: it is the depth that is refused."""
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)[None]
    for content, suffix in (
        (tiff(PIXELS, 1, 2), "tif"),
        (pnm("P6", 255, PIXELS.tobytes()), "ppm"),
        (saved(PICTURE, "TIFF", compression="tiff_lzw"), "tif"),
        (saved(PICTURE, "BMP"), "bmp"),
    ):
        assert torch.equal(read(tmp_path, content, suffix), expected)
        (tmp_path / f"a.{suffix}").unlink()


def test_numbers_with_a_sign_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no unsigned whole numbers"):
        read(tmp_path, tiff(np.full((6, 8, 1), -1, np.int8), 2, 1), "tif")


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")])
def test_several_frames_are_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    with pytest.raises(DataError, match="holds 2 frames"):
        read(tmp_path, several(kind), suffix)


def test_a_photograph_with_its_preview_is_one_image(tmp_path: Path) -> None:
    assert read(tmp_path, several("MPO"), "jpg").shape == (1, 3, 6, 8)


def test_palettes_bits_and_turned_photographs(tmp_path: Path) -> None:
    palette = PICTURE.quantize(8)
    colours = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)[None]
    assert torch.equal(read(tmp_path, saved(palette, "PNG"), "png"), colours)
    bits = np.asarray(PICTURE.convert("1"))
    found = read(tmp_path, saved(PICTURE.convert("1"), "PNG"), "png")
    assert torch.equal(found[0, 0], torch.from_numpy(255 * bits.astype(np.uint8)))
    turned = Image.Exif()
    turned[274] = 6  # hold it a quarter turn clockwise
    upright = torch.from_numpy(PIXELS).permute(2, 0, 1).rot90(-1, (1, 2))[None]
    assert torch.equal(read(tmp_path, saved(PICTURE, "PNG", exif=turned), "png"), upright)


def test_a_size_that_is_not_square(tmp_path: Path) -> None:
    """Files of that very size are not touched; others are cut at the centre."""
    read(tmp_path, saved(PICTURE, "PNG"), "png")
    assert torch.equal(read_image_folder(tmp_path, size=(6, 8)), read_image_folder(tmp_path))
    centre = read_image_folder(tmp_path, size=(6, 4))
    assert torch.equal(centre, read_image_folder(tmp_path)[:, :, :, 2:6])
    assert read_image_folder(tmp_path, size=3).shape == (1, 3, 3, 3)
    with pytest.raises(ConfigurationError, match="got 6 × 0"):
        read_image_folder(tmp_path, size=(6, 0))


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((9, 6, 8), (9, 1, 6, 8)),
        ((9, 4, 4), (9, 1, 4, 4)),
        ((9, 1, 6, 8), (9, 1, 6, 8)),
        ((9, 3, 6, 8), (9, 3, 6, 8)),
        ((9, 6, 8, 3), (9, 3, 6, 8)),
        ((9, 6, 8, 1), (9, 1, 6, 8)),
        ((9, 1, 3, 3), (9, 1, 3, 3)),
        ((9, 3, 3, 1), (9, 1, 3, 3)),
    ],
)
def test_arrays_of_images(tmp_path: Path, shape: tuple[int, ...], images: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    found = read_rows(tmp_path / "x.npy")
    assert found.shape == images
    if len(shape) == 4 and shape[1:] != images[1:]:
        found = found.permute(0, 2, 3, 1)
    assert np.array_equal(found.reshape(shape).numpy(), array)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((9, 6, 8, 4), "Drop transparency"),
        ((9, 4, 6, 8), "Drop transparency"),
        ((9, 6, 8, 2), "Drop transparency"),
        ((9, 2, 6, 8), "Drop transparency"),
        ((9, 3, 3, 3), r"may be \(n, C, H, W\) or \(n, H, W, C\)"),
        ((9, 3, 8, 1), r"may be \(n, C, H, W\) or \(n, H, W, C\)"),
        ((60, 80, 3), "one colour image"),
        ((60, 80, 4), "one colour image"),
        ((0, 3, 6, 8), "no image"),
        ((9, 0, 8), "no image"),
    ],
)
def test_arrays_that_are_no_images_are_refused_at_reading(tmp_path: Path, shape: tuple[int, ...], says: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=says):
        read_rows(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int64, bool])
def test_arrays_of_other_numbers_are_no_images(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 1, 6, 8), dtype))
    with pytest.raises(DataError, match=r"Save images as numpy\.uint8, 0 … 255"):
        read_rows(tmp_path / "x.npy")
