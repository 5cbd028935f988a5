"""Arrays from ``.npy`` and ``.npz`` files, read without pickle after a check of their size, and arrays of images."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from contraflow.errors import DataError

_DEFLATE_LIMIT = 1032


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in a ``.npy`` file.

    Raises:
        DataError: not such a file, an array of objects, or a size in its header that is not the file's.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            return _read_array(stream, path.stat().st_size, str(path))
    except DataError:
        raise
    except Exception as error:  # numpy evaluates the header as a Python literal: a broken one raises nearly anything
        raise _broken(str(path), error) from error


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays in a ``.npz`` file by name.

    Raises:
        DataError: as `read_npy`; also a member that is not a ``.npy`` array.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path)
            return {
                member.filename.removesuffix(".npy"): _read_member(archive, member, path)
                for member in archive.infolist()
            }
    except DataError:
        raise
    except Exception as error:  # as above
        raise _broken(str(path), error) from error


def images_from_array(values: np.ndarray, source: str) -> np.ndarray:
    """Images ``(n, C, H, W)`` with C in 1, 3, from an array ``(n, C, H, W)``, ``(n, H, W, C)`` or, grey, ``(n, H, W)``.

    Where both readings are possible, the one with square images is taken.

    Raises:
        DataError: an empty array, another number of channels (transparency counts as one), a single image, or an
            array that can be read both ways.
    """
    if 0 in values.shape:
        raise DataError(f"{source}: an array of shape {values.shape} holds no image.")
    if values.ndim == 3:
        if values.shape[2] in (3, 4) and values.shape[1] != values.shape[2]:
            raise DataError(
                f"{source}: shape {values.shape} looks like one colour image, where (n, H, W) or (n, H, W, 3) is "
                "expected. Stack images along a first dimension."
            )
        return values[:, None]
    readings = [images for images in (values, values.transpose(0, 3, 1, 2)) if images.shape[1] in (1, 3)]
    if not readings:
        raise DataError(
            f"{source}: images of shape {values.shape} are neither (n, C, H, W) nor (n, H, W, C) with C in 1, 3. Drop "
            "transparency with x[..., :3], or of grey images with x[..., :1]."
        )
    if len(readings) == 2:
        readings = [images for images in readings if images.shape[2] == images.shape[3]]
    if len(readings) != 1:
        raise DataError(
            f"{source}: images of shape {values.shape} may be (n, C, H, W) or (n, H, W, C). Give grey ones as "
            "(n, H, W), and colour ones as a folder of files."
        )
    return np.ascontiguousarray(readings[0])


def _broken(source: str, error: Exception) -> DataError:
    return DataError(
        f"{source}: expected a numpy array file ({type(error).__name__}: {error}). "
        "Write it again with numpy.save or numpy.savez."
    )


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    # of all together: members that overlap could each claim as much as the whole file can hold
    claimed = sum(member.file_size for member in archive.infolist())
    if claimed > _DEFLATE_LIMIT * path.stat().st_size:
        raise DataError(f"{path}: claims {claimed} bytes, which a file of this length cannot hold.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    source = f"{path}:{member.filename}"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{source}: compressed by another method than numpy's. Write it again with numpy.savez.")
    with archive.open(member) as stream:
        return _read_array(cast(BinaryIO, stream), member.file_size, source)


def _read_array(stream: BinaryIO, length: int, source: str) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{source}: format version {version} of .npy is not one of (1, 0), (2, 0).")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise DataError(f"{source}: holds Python objects, which could run code when read. Save plain numbers instead.")
    claimed, present = math.prod(shape) * dtype.itemsize, length - stream.tell()
    if claimed != present:
        raise DataError(f"{source}: the header claims {claimed} bytes for shape {shape}, but {present} follow.")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
