"""The idx format of MNIST: two zero bytes, type, number of dimensions, big-endian sizes, values.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from contraflow.errors import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
# deflate cannot shrink by more than 1032 to 1, so a header that claims more than that is false before anything is read
_DEFLATE_LIMIT = 1032


def read_idx(path: str | os.PathLike[str], *, dimensions: int) -> Tensor:
    """Read an idx file of unsigned bytes, plain or gzip-compressed.

    Args:
        path: the file.
        dimensions: 3 for images ``(n, H, W)``, 1 for labels ``(n,)``.

    Returns:
        uint8 tensor with the shape that the header gives.

    Raises:
        DataError: absent, empty, not an idx file of bytes, another number of dimensions, truncated, or longer than
            its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            magic = raw.read(2)
            raw.seek(0)
            if not magic:
                raise DataError(f"{path}: the file is empty; expected an idx file. Download it again.")
            if magic == _GZIP_MAGIC:
                with gzip.open(raw) as stream:
                    return _read(path, cast(BinaryIO, stream), dimensions, _DEFLATE_LIMIT * path.stat().st_size)
            if path.suffix == ".gz":
                raise DataError(
                    f"{path}: expected gzip data, but the file starts with {magic!r}. Download it again, "
                    "or drop '.gz' from the name if it is already unpacked."
                )
            return _read(path, raw, dimensions, path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). If it is truncated, download it again.") from error


def _read(path: Path, stream: BinaryIO, dimensions: int, most_bytes: int) -> Tensor:
    shape = _read_shape(path, stream, dimensions)
    size = math.prod(shape)
    if size > most_bytes:
        raise DataError(
            f"{path}: the header claims {shape}, {size} bytes, which a file of this length cannot hold. "
            "Download it again."
        )
    values = _read_at_most(stream, size + 1)
    if len(values) != size:
        came = f"only {len(values)}" if len(values) < size else "more"
        raise DataError(f"{path}: the header claims {shape}, {size} bytes, but {came} came. Download it again.")
    return torch.from_numpy(np.frombuffer(values, dtype=np.uint8).reshape(shape))


def _read_shape(path: Path, stream: BinaryIO, dimensions: int) -> tuple[int, ...]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: expected an idx file of bytes (00 00 08 …), got {start.hex(' ') or 'nothing'}.")
    if start[3] != dimensions:
        kind = {1: "labels, 1 dimension", 3: "images, 3 dimensions"}.get(dimensions, f"{dimensions} dimensions")
        raise DataError(f"{path}: expected {kind}, got {start[3]}. Are the image and label files swapped?")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{path}: truncated inside the header, after {4 + len(sizes)} bytes. Download it again.")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if 0 in shape:
        raise DataError(f"{path}: the header says {shape}, so the file holds nothing. Download it again.")
    return shape


def _read_at_most(stream: BinaryIO, limit: int) -> bytearray:
    """Up to `limit` bytes; memory grows with what really comes, not with what a header claims."""
    values = bytearray()
    while len(values) < limit and (chunk := stream.read(min(_CHUNK, limit - len(values)))):
        values += chunk
    return values
