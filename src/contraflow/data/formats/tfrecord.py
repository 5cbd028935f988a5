"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of those bytes, that many bytes, and a checksum of them;
a checksum is a CRC-32C, rotated right by 15 bits and increased by 0xA282EAD8. Of the encoding of messages, which is
that of Protocol Buffers, what an Example may hold is read: bytes and integers by name; real numbers are skipped.

The CRC-32C of many bytes is computed in numpy: slices side by side, put together by the linearity of the code.
The register after a message is linear over GF(2) in the message and in the register before it. So the message is cut
into slices of equal length, all of them run from 0 at once, and neighbours are joined by

    register(a b) = Z^|b| register(a) ⊕ register(b),

where Z is what one zero byte does to the register, a 32 × 32 matrix over GF(2).

Sources: "TFRecords format details" in the guide of TensorFlow 1.10; tensorflow/core/example/example.proto and
feature.proto; "Encoding" in the guide of Protocol Buffers; G. Castagnoli, S. Bräuer, M. Herrmann, "Optimization of
cyclic redundancy-check codes with 24 and 32 parity bits", IEEE Transactions on Communications 41, 1993; parameters and
test values as in RFC 3720, B.4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from contraflow.errors import DataError

_AGAIN = "Download it again."
_HEADER = 12
_FOOTER = 4
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LONGEST_VARINT = 10

Feature = bytes | list[int]
"""A feature's only byte string, or its integers."""


def record_lengths(path: str | os.PathLike[str]) -> list[int]:
    """Bytes of every record of a file, from the headers alone.

    Raises:
        DataError: a file that cannot be read, is truncated, or has a header that does not fit its checksum.
    """
    path = Path(path)
    lengths: list[int] = []
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            while stream.tell() < size:
                lengths.append(_read_length(stream, size, f"{path}, record {len(lengths)}"))
                stream.seek(lengths[-1] + _FOOTER, os.SEEK_CUR)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    return lengths


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of a file, one after the other, each compared with its checksum.

    Raises:
        DataError: as `record_lengths`; also a record that does not fit its checksum.
    """
    path, number = Path(path), 0
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            while stream.tell() < size:
                source = f"{path}, record {number}"
                record = stream.read(_read_length(stream, size, source))
                _check(record, stream.read(_FOOTER), source)
                yield record
                number += 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def read_example(record: bytes, source: str) -> dict[str, Feature]:
    """The features of a serialised Example by name; lists of real numbers are left out.

    Args:
        record: the message.
        source: its name in error messages.

    Raises:
        DataError: not such a message, or a feature with other than one byte string.
    """
    try:
        by_name: dict[str, Feature] = {}
        for features in _messages(record, 1):
            for entry in _messages(features, 1):
                name = b"".join(_messages(entry, 1)).decode()
                feature = b"".join(_messages(entry, 2))
                if strings := [string for values in _messages(feature, 1) for string in _messages(values, 1)]:
                    by_name[name] = _only(strings, name)
                elif integers := [integer for values in _messages(feature, 3) for integer in _integers(values)]:
                    by_name[name] = integers
        return by_name
    except ValueError as error:
        raise DataError(f"{source}: expected a tf.train.Example ({error}). {_AGAIN}") from error


def _read_length(stream: BinaryIO, size: int, source: str) -> int:
    header = stream.read(_HEADER)
    if len(header) < _HEADER:
        raise DataError(f"{source}: truncated after {len(header)} bytes of its header. {_AGAIN}")
    _check(header[:8], header[8:], f"{source}, length")
    length: int = struct.unpack_from("<Q", header)[0]
    present = size - stream.tell() - _FOOTER
    if length > present:
        raise DataError(f"{source}: claims {length} bytes, but {max(0, present)} follow. {_AGAIN}")
    return length


def _check(content: bytes, checksum: bytes, source: str) -> None:
    crc = crc32c(content)
    expected = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    if checksum != expected.to_bytes(4, "little"):
        raise DataError(
            f"{source}: checksum {checksum.hex()}, expected {expected.to_bytes(4, 'little').hex()}. {_AGAIN}"
        )


def _only(strings: list[bytes], name: str) -> bytes:
    if len(strings) != 1:
        raise ValueError(f"{name!r} has {len(strings)} byte strings")
    return strings[0]


def _messages(message: bytes, number: int) -> list[bytes]:
    """The values of the fields with this number, which must be strings of bytes."""
    values = [value for field, value in _fields(message) if field == number]
    strings = [value for value in values if isinstance(value, bytes)]
    if len(strings) != len(values):
        raise ValueError(f"field {number} is not a string of bytes")
    return strings


def _integers(message: bytes) -> Iterator[int]:
    """The integers of an Int64List, packed or one by one."""
    for number, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            yield _signed(value)
        else:
            place = 0
            while place < len(value):
                integer, place = _varint(value, place)
                yield _signed(integer)


def _signed(value: int) -> int:
    """The 64-bit two's complement."""
    return (value + 2**63) % 2**64 - 2**63


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of every field: integers as such, all else as bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(message, place)
        elif wire in (_FIXED_64, _FIXED_32):
            length = 8 if wire == _FIXED_64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if length > len(message) - place:
            raise ValueError(f"field {number} claims {length} bytes, but {len(message) - place} follow")
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for shift, byte in enumerate(message[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise ValueError(f"no end of the integer at byte {place}")


_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = 0xFFFFFFFF
# these four bytes take the register from 0 to all ones, where the standard starts; leading zeros leave it at 0
_START = bytes.fromhex("54641f64")
_SLICES = 1024
_LONG = 16 * _SLICES


def crc32c(content: bytes) -> int:
    """The checksum of `content`, 0 … 2³² − 1.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    slices = _SLICES if len(content) >= _LONG else 1
    length = -(-(len(_START) + len(content)) // slices)
    message = np.frombuffer((_START + content).rjust(slices * length, b"\0"), dtype=np.uint8)
    registers = np.zeros(slices, dtype=np.uint32)
    for column in np.ascontiguousarray(message.reshape(slices, length).T):
        registers = _step(registers, column)
    joined = length
    while len(registers) > 1:
        registers = _apply(_zero_bytes(joined), registers[::2]) ^ registers[1::2]
        joined *= 2
    return int(registers[0]) ^ _ONES


def _table() -> np.ndarray:
    """What each byte does to a register of 0."""
    registers = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        registers = np.where(registers & 1, _POLYNOMIAL, np.uint32(0)) ^ registers >> 1
    return registers


_TABLE = _table()
_BITS = np.arange(32, dtype=np.uint32)
_UNITS = np.uint32(1) << _BITS


def _step(registers: np.ndarray, column: np.ndarray) -> np.ndarray:
    return _TABLE[(registers ^ column) & 0xFF] ^ (registers >> 8)


@lru_cache(maxsize=256)
def _zero_bytes(length: int) -> np.ndarray:
    """Z^length: the registers that the 32 unit vectors become."""
    if length == 1:
        return _step(_UNITS, np.zeros(1, dtype=np.uint8))
    half = _zero_bytes(length // 2)
    whole = _apply(half, half)
    return _apply(_zero_bytes(1), whole) if length % 2 else whole


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    bits = registers[:, None] >> _BITS & 1
    return np.bitwise_xor.reduce(bits * matrix, axis=1)
