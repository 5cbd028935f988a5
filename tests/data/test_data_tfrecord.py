"""CRC-32C against values of RFC 3720 and a bit-by-bit loop; TFRecords and Examples against TensorBoard and protobuf."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from contraflow.data.formats.tfrecord import crc32c, read_example, read_records, record_lengths
from contraflow.errors import DataError


def crc_bit_by_bit(content: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    """A record as a TFRecord file holds it."""

    def masked(content: bytes) -> bytes:
        crc = crc_bit_by_bit(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def varint(value: int) -> bytes:
    value %= 2**64
    content = b""
    while value > 0x7F:
        content, value = content + bytes([value & 0x7F | 0x80]), value >> 7
    return content + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: bytes | list[int] | float) -> bytes:
    """A serialised tf.train.Example of byte strings, integers (packed, as TensorFlow writes them) and a real number."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value, float):
            feature = field(2, field(1, struct.pack("<f", value)))
        else:
            feature = field(3, field(1, b"".join(map(varint, value))))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
    ids=["zeros", "ones", "rising", "falling", "digits", "empty"],
)
def test_published_checksums(content: bytes, expected: int) -> None:
    assert crc32c(content) == crc_bit_by_bit(content) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 16_383, 16_384, 16_385, 17_408, 40_001])
def test_checksums_of_every_length(length: int) -> None:
    content = random.Random(length).randbytes(length)
    assert crc32c(content) == crc_bit_by_bit(content)


def test_records_come_back(tmp_path: Path) -> None:
    records = [b"", b"a", bytes(range(256)) * 100]
    path = tmp_path / "r.tfrecords"
    path.write_bytes(b"".join(map(framed, records)))
    assert record_lengths(path) == [0, 1, 25_600]
    assert list(read_records(path)) == records
    path.write_bytes(b"")
    assert (record_lengths(path), list(read_records(path))) == ([], [])


def test_records_as_tensorboard_writes_them(tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    path = tmp_path / "r.tfrecords"
    records = [random.Random(0).randbytes(length) for length in (3, 20_000)]
    with path.open("wb") as stream:
        for one in records:
            writer(stream).write(one)
        stream.flush()
    assert path.read_bytes() == b"".join(map(framed, records))
    assert list(read_records(path)) == records


def example_class() -> type:
    """tf.train.Example, made from its published definition."""
    pool = pytest.importorskip("google.protobuf.descriptor_pool").DescriptorPool()
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message_factory import GetMessageClass

    file = FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = {"BytesList": Field.TYPE_BYTES, "FloatList": Field.TYPE_FLOAT, "Int64List": Field.TYPE_INT64}
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=Field.LABEL_REPEATED, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    names = ("bytes_list", "float_list", "int64_list")
    for number, (name, of) in enumerate(zip(names, kinds, strict=True), start=1):
        feature.field.add(
            name=name, number=number, type=Field.TYPE_MESSAGE, type_name=f".t.{of}", oneof_index=0,
            label=Field.LABEL_OPTIONAL,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=Field.TYPE_MESSAGE, type_name=".t.Feature", label=Field.LABEL_OPTIONAL)
    features.field.add(
        name="feature", number=1, type=Field.TYPE_MESSAGE, type_name=".t.Features.FeatureEntry",
        label=Field.LABEL_REPEATED,
    )  # fmt: skip
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=Field.TYPE_MESSAGE, type_name=".t.Features", label=Field.LABEL_OPTIONAL
    )
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def test_examples_as_protobuf_writes_them() -> None:
    message = example_class()()
    data = random.Random(1).randbytes(3000)
    message.features.feature["shape"].int64_list.value.extend([256, 256, 3])
    message.features.feature["data"].bytes_list.value.append(data)
    message.features.feature["attr"].int64_list.value.extend([-1, 1, -(2**63), 2**63 - 1])
    message.features.feature["real"].float_list.value.extend([1.5, 2.5])
    message.features.feature["empty"].int64_list.value.extend([])
    expected = {"shape": [256, 256, 3], "data": data, "attr": [-1, 1, -(2**63), 2**63 - 1]}
    assert read_example(message.SerializeToString(), "e") == expected
    assert read_example(example(real=1.5, empty=[], **expected), "e") == expected
    assert example_class().FromString(example(**expected)).features.feature["data"].bytes_list.value == [data]


def test_integers_one_by_one_and_fields_of_other_kinds() -> None:
    unpacked = b"".join(varint(1 << 3) + varint(value) for value in (7, -2))
    others = varint(9 << 3 | 1) + b"\xff" * 8 + varint(9 << 3 | 5) + b"\xff" * 4 + varint(9 << 3) + b"\x05"
    record = others + field(1, field(1, field(1, b"n") + field(2, field(3, unpacked) + others)))
    assert read_example(record, "e") == {"n": [7, -2]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\x0a\x05abc", "field 1 claims 5 bytes, but 3 follow"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "field 1 is not a string"),
        (b"\x88" * 10 + b"\x01", "no end of the integer at byte 0"),
        (b"\x0a\xff", "no end of the integer at byte 1"),
        (field(1, field(1, field(1, b"\xff"))), "utf-8"),
        (field(1, field(1, field(1, b"d") + field(2, field(1, 2 * field(1, b"x"))))), "'d' has 2 byte strings"),
    ],
)
def test_what_is_not_an_example(record: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_example(record, "e")


def test_damage_is_named_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "r.tfrecords"
    whole = framed(b"first") + framed(bytes(20_000))
    first = len(framed(b"first"))
    for place, message in [
        (0, "record 0, length: checksum"),
        (9, "record 0, length: checksum"),
        (14, "record 0: checksum"),
        (first - 1, "record 0: checksum"),
        (first + 5000, "record 1: checksum"),
    ]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(DataError, match=message):
            list(read_records(path))
    for length, message in [
        (first + 3, "record 1: truncated after 3 bytes of its header"),
        (first + 13, "record 1: claims 20000 bytes, but 0 follow"),
        (len(whole) - 1, "record 1: claims 20000 bytes, but 19999 follow"),
    ]:
        path.write_bytes(whole[:length])
        for read in (record_lengths, lambda one: list(read_records(one))):
            with pytest.raises(DataError, match=message):
                read(path)
    with pytest.raises(DataError, match="cannot be read"):
        record_lengths(tmp_path)


def test_a_length_cannot_claim_memory(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**62)
    path = tmp_path / "r.tfrecords"
    path.write_bytes(length + framed(length)[12 + 8 :] + bytes(20))
    with pytest.raises(DataError, match="claims 4611686018427387904 bytes, but 16 follow"):
        list(read_records(path))
