"""Numeric arrays from MATLAB 5 files, with every size checked.

scipy's reader was tried: it ends the whole process with a segmentation fault on some corrupted files, so this one is
written in Python over the published layout ("MAT-File Format", The MathWorks): a header of 128 bytes, then elements of
tag (type, bytes) and data; an element of type 14 is a matrix, one of type 15 a matrix compressed by zlib.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from contraflow.errors import DataError

_HEADER, _MATRIX, _COMPRESSED = 128, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMERIC_CLASSES = range(6, 14)
_COMPLEX = 0x0800
# of all variables of a file together once inflated: SVHN's largest has 1.6 GB
_LARGEST = 1 << 31
_MOST_DIMENSIONS = 32

Element = tuple[int, memoryview]


def read_matlab(path: Path) -> dict[str, np.ndarray]:
    """The real numeric arrays in a file, by name; variables of other kinds are skipped.

    Raises:
        DataError: not a MATLAB 5 file, or broken.
    """
    try:
        content = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(content[126:128], "")
        if not order or struct.unpack(f"{order}H", content[124:126]) != (0x0100,):
            raise ValueError("its header is not that of MATLAB 5")
        arrays, room = {}, _LARGEST
        for kind, body in _elements(memoryview(content)[_HEADER:], order):
            inflated = _inflate(body, room) if kind == _COMPRESSED else memoryview(b"")
            room -= len(inflated)
            matrix = next(_elements(inflated, order)) if kind == _COMPRESSED else (kind, body)
            if matrix[0] == _MATRIX:
                arrays.update(_read_matrix(matrix[1], order))
        return arrays
    except (OSError, ValueError, struct.error, zlib.error, StopIteration) as error:
        raise DataError(f"{path}: expected a whole MATLAB 5 file ({error}). Download it again.") from error


def _elements(buffer: memoryview, order: str) -> Iterator[Element]:
    """Type and data of each element; the data stay where they are."""
    offset = 0
    while offset < len(buffer):
        (word,) = struct.unpack_from(f"{order}I", buffer, offset)
        if word >> 16:  # a small element: size and type in one word, up to four bytes of data in the next
            kind, size, start = word & 0xFFFF, word >> 16, offset + 4
            following = offset + 8
        else:
            kind, (size,), start = word, struct.unpack_from(f"{order}I", buffer, offset + 4), offset + 8
            # data end on a multiple of 8 bytes, compressed ones excepted
            following = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(buffer) or (word >> 16 and size > 4):
            raise ValueError(f"an element claims {size} bytes, {len(buffer) - start} follow")
        yield kind, buffer[start : start + size]
        offset = following


def _inflate(body: memoryview, room: int) -> memoryview:
    content = zlib.decompressobj().decompress(body, room)
    if len(content) == room:
        raise ValueError(f"the variables are larger than {_LARGEST} bytes")
    return memoryview(content)


def _read_matrix(body: memoryview, order: str) -> dict[str, np.ndarray]:
    """The array by its name; empty where the variable is not a real numeric array."""
    parts = _elements(body, order)
    flags = struct.unpack_from(f"{order}I", next(parts)[1])[0]
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX:
        return {}
    # the product of millions of sizes would take hours
    sizes, name = next(parts)[1], bytes(next(parts)[1]).decode("ascii")
    if len(sizes) > 4 * _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {len(sizes) // 4} dimensions")
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    kind, data = next(parts)
    if kind not in _NUMBERS or min(shape, default=-1) < 0:
        raise ValueError(f"{name} has type {kind} and shape {shape}")
    values = np.frombuffer(data, dtype=order + _NUMBERS[kind])
    if math.prod(shape) != len(values):
        raise ValueError(f"{name} has {len(values)} values for shape {shape}")
    return {name: values.reshape(shape, order="F")}
