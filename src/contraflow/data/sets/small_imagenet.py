"""The small ImageNet of 32 × 32 or 64 × 64: a folder of PNG files, or the plain tar archive that it came in.

``train_32x32.tar`` and ``valid_32x32.tar`` hold 1,281,149 and 49,999 images, in memory 3.9 GB and 0.15 GB; those of
64 × 64 take 15.7 GB and 0.6 GB. A later release of the same sizes, as arrays, is of P. Chrabaszcz, I. Loshchilov and
F. Hutter, "A downsampled variant of ImageNet as an alternative to the CIFAR datasets", 2017 (arXiv:1707.08819): it is
downsampled by another filter, so bits per dimension on it are not comparable with published ones. It is not read here.

A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu, "Pixel recurrent neural networks", 2016 (arXiv:1601.06759).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry, Loader
from contraflow.data.formats.image_folder import read_image
from contraflow.data.formats.image_memory import memory_for_images
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published import VALIDATION_IMAGES, unlabelled
from contraflow.errors import DataError

_SUFFIX = ".png"
_BLOCK = tarfile.BLOCKSIZE
# a 64 × 64 photograph that does not compress at all is 12 kB
_LARGEST_PNG = 1 << 20
_AGAIN = "Download and unpack it again."


class _Picture(NamedTuple):
    """A PNG file: its name in the folder or archive, and which bytes of the archive, or of the file itself."""

    name: str
    start: int
    length: int


def read_small_imagenet(path: Path, side: int) -> Tensor:
    """Every PNG image of a folder or plain tar archive, in the order of their names.

    Nothing is unpacked: members are decoded in place, within the archive, so no path in them matters.

    Args:
        path: the folder, or the archive.
        side: pixels of an image's side.

    Returns:
        uint8 ``(n, 3, side, side)``.

    Raises:
        DataError: not a whole archive, no PNG file, one that cannot be read or has another size, or too little memory.
    """
    try:
        pictures = sorted(_in_folder(path) if path.is_dir() else _in_archive(path))
        if not pictures:
            raise DataError(f"{path}: no {_SUFFIX} file in it. {_AGAIN}")
        images = memory_for_images(len(pictures), side, str(path))
        for place, (source, content) in zip(images.numpy(), _contents(path, pictures), strict=True):
            pixels = read_image(io.BytesIO(content), len(content), source)
            if pixels.shape != (3, side, side):
                raise DataError(f"{source}: {pixels.shape[2]} × {pixels.shape[1]} pixels, expected {side} × {side}.")
            place[:] = pixels
        return images
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def _in_folder(folder: Path) -> Iterator[_Picture]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX) and entry.is_file():
                yield _picture(folder, entry.name, 0, entry.stat().st_size)


def _in_archive(path: Path) -> Iterator[_Picture]:
    """From the headers alone, block by block: what tarfile itself would keep of a million members is a gigabyte."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as stream:
        while any(block := stream.read(_BLOCK)):
            try:
                member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise DataError(f"{path}: not a tar archive at byte {place} ({error}). {_AGAIN}") from error
            place += _BLOCK
            if not 0 <= member.size <= size - place:
                raise DataError(
                    f"{path}: {member.name!r} claims {member.size} bytes, but {size - place} follow. {_AGAIN}"
                )
            if member.isreg() and member.name.endswith(_SUFFIX):
                yield _picture(path, member.name, place, member.size)
            elif member.isreg() and len(member.name) >= tarfile.LENGTH_NAME:
                raise DataError(f"{path}: {member.name!r} is a name cut off. Unpack the archive and read the folder.")
            place += -(-member.size // _BLOCK) * _BLOCK
            stream.seek(place)
        if len(block) < _BLOCK:
            raise DataError(f"{path}: ends at byte {size} without the mark of a tar archive's end. {_AGAIN}")


def _picture(path: Path, name: str, start: int, length: int) -> _Picture:
    if length > _LARGEST_PNG:
        raise DataError(f"{path}: {name!r} has {length} bytes, which is not an image of this data set. {_AGAIN}")
    return _Picture(name, start, length)


def _contents(path: Path, pictures: Sequence[_Picture]) -> Iterator[tuple[str, bytes]]:
    """What errors call each picture, and its bytes."""
    if path.is_dir():
        for name, _, length in pictures:
            with (path / name).open("rb") as stream:
                yield str(path / name), stream.read(length)
        return
    with path.open("rb") as stream:
        for name, start, length in pictures:
            stream.seek(start)
            yield f"{path}, {name!r}", stream.read(length)


def _form(size: str) -> Form:
    """Published at image-net.org/small; without addresses, since each train archive is larger than `download` takes."""
    return tuple(
        KnownFile(f"{split}_{size}.tar", ("ImageNet", "."), also=(f"{split}_{size}",), unpacked=True)
        for split in ("train", "valid")
    )


def _loader(name: str, side: int) -> Loader:
    """Loader of the small ImageNet: colour, 1,276,149 train, 5,000 validation and, its valid images, 49,999 test."""

    def load(paths: Sequence[Path], seed: int) -> Dataset:
        train, test = (read_small_imagenet(path, side) for path in paths)
        return unlabelled(name, train, test, VALIDATION_IMAGES)

    return load


ENTRY_32 = Entry(
    _loader("imagenet32", 32),
    "photographs, 3 × 32 × 32, the small ImageNet of PixelRNN; 4 GB of memory",
    "image",
    (_form("32x32"),),
)
ENTRY_64 = Entry(
    _loader("imagenet64", 64),
    "photographs, 3 × 64 × 64, the small ImageNet of PixelRNN; 16 GB of memory",
    "image",
    (_form("64x64"),),
)
