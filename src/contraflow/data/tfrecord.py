"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of those bytes, that many bytes, and a checksum of them;
a checksum is a CRC-32C, rotated right by 15 bits and increased by 0xA282EAD8. Of the encoding of messages, which is
that of Protocol Buffers, what an Example may hold is read: bytes and integers by name, real numbers passed over.

Sources: "TFRecords format details" in the guide of TensorFlow 1.10; tensorflow/core/example/example.proto and
feature.proto; "Encoding" in the guide of Protocol Buffers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from contraflow.data.crc32c import crc32c
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
        source: what errors call it.

    Raises:
        DataError: not such a message, or a feature with other than one byte string.
    """
    try:
        found: dict[str, Feature] = {}
        for features in _messages(record, 1):
            for entry in _messages(features, 1):
                name = b"".join(_messages(entry, 1)).decode()
                feature = b"".join(_messages(entry, 2))
                if strings := [one for values in _messages(feature, 1) for one in _messages(values, 1)]:
                    found[name] = _only(strings, name)
                elif integers := [one for values in _messages(feature, 3) for one in _integers(values)]:
                    found[name] = integers
        return found
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
    values = [value for found, value in _fields(message) if found == number]
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
                one, place = _varint(value, place)
                yield _signed(one)


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
