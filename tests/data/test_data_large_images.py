"""The small ImageNet from archives and folders, CelebA-HQ from Glow's TFRecords; small sets in the real formats."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_tfrecord import example, framed

from contraflow.data import check, fetch, load_dataset
from contraflow.data.formats.image_memory import memory_for_images
from contraflow.data.sets import celeba_hq, small_imagenet
from contraflow.data.sets.celeba_hq import read_celeba_hq
from contraflow.data.sets.small_imagenet import read_small_imagenet
from contraflow.errors import DataError

SIDE = 8


def photographs(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pictures(images: np.ndarray, folder: str = "valid_8x8/") -> dict[str, bytes]:
    """Name → content, last name first: archives are not in the order of their names."""
    return {f"{folder}{place:07d}.png": png(images[place]) for place in reversed(range(len(images)))}


def archive(files: dict[str, bytes], mode: str = "w", form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive with a folder's entry first, as tar makes it of a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as opened:
        folder = tarfile.TarInfo("valid_8x8")
        folder.type = tarfile.DIRTYPE
        opened.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        written(folder / name, content)
    return folder


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_an_archive_and_its_folder_give_the_same(tmp_path: Path, form: int) -> None:
    images = photographs(12)
    tar = written(tmp_path / "valid.tar", archive(pictures(images), form=form))
    folder = write_folder(tmp_path / "valid", {**pictures(images, ""), "readme.txt": b"no picture"})
    (folder / "a folder.png").mkdir()
    for path in (tar, folder):
        read = read_small_imagenet(path, SIDE)
        assert read.dtype == torch.uint8
        assert torch.equal(read, channels_first(images))


def test_an_archive_cannot_escape_or_link(tmp_path: Path) -> None:
    images = photographs(1)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = kind, "/etc/passwd"
            opened.addfile(link)
        member = tarfile.TarInfo("../../out.png")
        content = png(images[0])
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
    path = written(tmp_path / "a" / "b" / "train.tar", stream.getvalue())
    assert torch.equal(read_small_imagenet(path, SIDE), channels_first(images))
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a", "b", "train.tar"]


def test_a_truncated_archive_is_named_wherever_it_ends(tmp_path: Path) -> None:
    whole = archive(pictures(photographs(2)))
    end = len(whole.rstrip(b"\0")) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE
    path = tmp_path / "train.tar"
    for length in (*range(0, end, 100), *range(0, end + 1, tarfile.BLOCKSIZE)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train\.tar: .*Download and unpack it again"):
            read_small_imagenet(path, SIDE)
    path.write_bytes(whole[: end + tarfile.BLOCKSIZE])
    assert len(read_small_imagenet(path, SIDE)) == 2


def claims(content: bytes, size: bytes) -> bytes:
    """The archive with another size in its second header, and the sum of that header put right."""
    start = tarfile.BLOCKSIZE
    header = bytearray(content[start : 2 * start])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:start] + bytes(header) + content[2 * start :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(pictures(photographs(1)), "w:gz"), "not a tar archive at byte 0"),
        (b"<html>" * 200, "not a tar archive at byte 0"),
        (archive({}), r"no \.png file"),
        (archive({"a.png": png(photographs(1)[0]), "b.png": png(photographs(1, 6)[0])}), "'b.png': 6 × 6 .* 8 × 8"),
        (archive({"a.png": b"no picture"}), "'a.png': cannot be read as an image; it is none of PNG"),
        (archive({"a.png": png(photographs(1)[0])[:100]}), "'a.png': cannot be read as an image"),
        (archive({"a\nb.png": b"no picture"}), r"'a\\nb\.png': cannot be read"),
        (archive({"a.png": bytes(2 << 20)}), "'a.png' has 2097152 bytes"),
        (claims(archive(pictures(photographs(1))), b"77777777777\0"), "claims 8589934591 bytes"),
        (
            claims(archive(pictures(photographs(1))), b"\x80\0\0\0\xff" + 7 * b"\xff"),
            "claims 18446744073709551615 bytes",
        ),
        (claims(archive(pictures(photographs(1))), 12 * b"\xff"), "claims -1 bytes"),
        (archive({"a" * 120 + ".png": png(photographs(1)[0])}), "name cut off"),
        (archive({"a" * 120 + ".png": png(photographs(1)[0])}, form=tarfile.PAX_FORMAT), "name cut off"),
    ],
)
def test_archives_that_are_not_of_such_images(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "train.tar", content)
    with pytest.raises(DataError, match=message) as caught:
        read_small_imagenet(path, SIDE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_of_such_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.png file"):
        read_small_imagenet(tmp_path, SIDE)
    written(tmp_path / "a.png", png(photographs(1, 6)[0]))
    with pytest.raises(DataError, match=r"a\.png: 6 × 6 pixels, expected 8 × 8"):
        read_small_imagenet(tmp_path, SIDE)
    with pytest.raises(DataError, match="cannot be read"):
        read_small_imagenet(tmp_path / "nothing", SIDE)


@pytest.mark.parametrize("side", [32, 64])
def test_imagenet_by_name(tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_imagenet, "VALIDATION_IMAGES", 2)
    name, train, valid = f"imagenet{side}", photographs(6, side, 1), photographs(3, side, 2)
    written(tmp_path / "ImageNet" / f"train_{side}x{side}.tar", archive(pictures(train)))
    write_folder(tmp_path / f"valid_{side}x{side}", pictures(valid, ""))
    loaded = load_dataset(name, root=tmp_path)
    assert (loaded.name, loaded.levels, loaded.train_labels) == (name, 256, None)
    assert torch.equal(loaded.train, channels_first(train[:4]))
    assert torch.equal(loaded.validation, channels_first(train[4:]))
    assert torch.equal(loaded.test, channels_first(valid))
    assert loaded.train.untyped_storage().data_ptr() == loaded.validation.untyped_storage().data_ptr(), "one memory"
    assert [status[:7] for _, status in check(name, tmp_path)] == ["present", "present"]
    with pytest.raises(DataError, match=r"no address.*train_.*\.tar and .*valid_.*\.tar"):
        fetch(name, tmp_path)
    monkeypatch.setattr(small_imagenet, "VALIDATION_IMAGES", 6)
    with pytest.raises(DataError, match=f"6 train images, expected more than 6.*contraflow data check {name}"):
        load_dataset(name, root=tmp_path)


def face(pixels: np.ndarray, **changes: bytes | list[int]) -> bytes:
    """A record as Glow's generator makes it."""
    features = {"shape": list(pixels.shape), "data": pixels.tobytes(), "label": [0], "attr": 20 * [-1, 1]}
    return framed(example(**{**features, **changes}))


def write_faces(folder: Path, split: str, images: np.ndarray, shards: int = 3) -> Path:
    """Shard after shard, the larger ones first, as numpy.array_split divides."""
    side = images.shape[1].bit_length() - 1
    for number, part in enumerate(np.array_split(images, shards)):
        name = f"{split}-r{side:02d}-s-{number:04d}-of-{shards:04d}.tfrecords"
        written(folder / split / name, b"".join(map(face, part)))
    return folder


def shard(folder: Path, number: int) -> Path:
    return folder / "train" / f"train-r03-s-{number:04d}-of-0003.tfrecords"


def test_faces_shard_by_shard(tmp_path: Path) -> None:
    images = photographs(8)
    write_faces(tmp_path, "train", images)
    write_faces(tmp_path, "train", photographs(8, 4), shards=2)
    written(tmp_path / "train" / "train-r03-s-0000-of-0003.tfrecords.part", b"of a download")
    read = read_celeba_hq(tmp_path, "train", SIDE)
    assert read.dtype == torch.uint8
    assert torch.equal(read, channels_first(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [8, 8]}, r"expected shape \[8, 8, 3\] and 192 bytes of data, got \[8, 8\] and 192"),
        ({"shape": [8, 3, 8]}, r"got \[8, 3, 8\]"),
        ({"data": bytes(191)}, "got .* and 191"),
        ({"data": [1]}, "got .* and 0"),
        ({"shape": list(range(1000))}, r"got \[0, 1.{35} and 192\."),
    ],
)
def test_records_that_are_not_faces(tmp_path: Path, changes: dict[str, bytes | list[int]], message: str) -> None:
    images = photographs(6)
    write_faces(tmp_path, "train", images)
    padded = {"label": 200 * [1], **changes}  # long enough for an image at first sight
    shard(tmp_path, 1).write_bytes(face(images[0]) + face(images[1], **padded))
    with pytest.raises(DataError, match=rf"0001-of-0003\.tfrecords, record 1: .*{message}"):
        read_celeba_hq(tmp_path, "train", SIDE)


def spoil(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def damages(folder: Path, images: Sequence[np.ndarray]) -> dict[str, object]:
    one = shard(folder, 1)
    return {
        r"0001-of-0003\.tfrecords, record 0: checksum": lambda: spoil(one, 100),
        r"0001-of-0003\.tfrecords, record 2: claims": lambda: one.write_bytes(one.read_bytes()[:-1]),
        r"0001-of-0003\.tfrecords: 1 records, where another shard has 3": lambda: one.write_bytes(face(images[0])),
        r"0001-of-0003\.tfrecords: 0 records": lambda: one.write_bytes(b""),
        r"0000-of-0003\.tfrecords: 0 records": lambda: [shard(folder, number).write_bytes(b"") for number in range(3)],
        "a record of 20 bytes, expected images of 192": lambda: one.write_bytes(3 * framed(bytes(20))),
        "lacks 1 of 3 shards, the first train-r03-s-0001-of-0003": one.unlink,
        r"no train-r03-s-….tfrecords": lambda: [path.unlink() for path in folder.glob("*/*")],
        "expected a folder of TFRecords": lambda: (folder / "train").rename(folder / "other"),
    }


@pytest.mark.parametrize("message", damages(Path(), photographs(1)))
def test_damaged_faces(tmp_path: Path, message: str) -> None:
    images = photographs(8)
    write_faces(tmp_path, "train", images)
    damages(tmp_path, images)[message]()
    with pytest.raises(DataError, match=message) as caught:
        read_celeba_hq(tmp_path, "train", SIDE)
    assert "\n" not in str(caught.value)


def test_shards_of_none(tmp_path: Path) -> None:
    written(tmp_path / "train" / "train-r03-s-0000-of-0000.tfrecords", face(photographs(1)[0]))
    with pytest.raises(DataError, match="no train-r03"):
        read_celeba_hq(tmp_path, "train", SIDE)


def test_faces_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba_hq, "VALIDATION_FACES", 1)
    train, validation = photographs(3, 256, 1), photographs(1, 256, 2)
    folder = tmp_path / "CelebAHQ" / "celeba-tfr"
    write_faces(folder, "train", train, shards=2)
    write_faces(folder, "validation", validation, shards=1)
    loaded = load_dataset("celebahq256", root=tmp_path)
    assert (loaded.name, loaded.levels, loaded.train_labels) == ("celebahq256", 256, None)
    assert torch.equal(torch.cat([loaded.train, loaded.validation]), channels_first(train))
    assert (len(loaded.validation), len(loaded.test)) == (1, 1)
    assert torch.equal(loaded.test, channels_first(validation))
    assert check("celebahq256", tmp_path)[0][0] == str(folder)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    written(tmp_path / "celeba-tfr", b"")
    with pytest.raises(DataError, match=r"expected a folder of TFRecords.*Unpack celeba-tfr\.tar"):
        load_dataset("celebahq256", root=tmp_path)


def test_too_little_memory_is_said() -> None:
    with pytest.raises(DataError, match=r"set: 1000000000 images of 256 × 256 need 196608\.0 GB of memory"):
        memory_for_images(10**9, 256, "set")
