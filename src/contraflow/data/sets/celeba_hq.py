"""CelebA-HQ 256 × 256 as Glow distributed it: 120 shards of train and 40 of validation, TFRecords of raw pixels.

Unpacked, ``celeba-tfr.tar`` is ``celeba-tfr/train/train-r08-s-0000-of-0120.tfrecords`` and so on: r08 is the side,
2⁸, and a record has ``shape`` (256, 256, 3), ``data``, the bytes of rows, columns and channels, and a ``label`` and
forty ``attr``, which are not read. 27,000 and 3,000 images; in memory 5.3 GB and 0.6 GB, of 8 bits, which
``preprocessing.bits=5`` reduces as the papers do.

Sources: T. Karras, T. Aila, S. Laine, J. Lehtinen, "Progressive growing of GANs", 2018 (arXiv:1710.10196); D. Kingma,
P. Dhariwal, "Glow", 2018 (arXiv:1807.03039), whose data_loaders/generate_tfr/generate.py wrote the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.image_memory import memory_for_images
from contraflow.data.formats.tfrecord import read_example, read_records, record_lengths
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published import unlabelled
from contraflow.errors import DataError

VALIDATION_FACES = 1000
"""As many of the 27,000 train images are kept for validation."""

_UNPACK = "Unpack celeba-tfr.tar again, or download it again."


def read_celeba_hq(folder: Path, split: str, side: int = 256) -> Tensor:
    """The images of one split, shard by shard.

    Args:
        folder: holds a folder ``split`` with the shards.
        split: train or validation.
        side: pixels of an image's side, a power of two.

    Returns:
        uint8 ``(n, 3, side, side)``.

    Raises:
        DataError: a shard is absent or damaged, a record is not such an image, or too little memory.
    """
    shards = _shards(folder / split, split, side)
    lengths = {shard: record_lengths(shard) for shard in shards}
    _check_lengths(lengths, 3 * side**2)
    images = memory_for_images(sum(map(len, lengths.values())), side, str(folder / split))
    places = iter(images.numpy())
    for shard in shards:
        for number, record in enumerate(read_records(shard)):
            next(places)[:] = _pixels(record, side, f"{shard}, record {number}")
    return images


def _shards(folder: Path, split: str, side: int) -> list[Path]:
    """The files of one resolution in their order, all of them."""
    start = f"{split}-r{side.bit_length() - 1:02d}-s-"
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of TFRecords ({error}). {_UNPACK}") from error
    counts = [
        int(match[1]) for name in names if (match := re.fullmatch(rf"{start}\d{{4}}-of-(\d{{4}})\.tfrecords", name))
    ]
    if not any(counts):
        raise DataError(f"{folder}: no {start}….tfrecords in it. {_UNPACK}")
    expected = [f"{start}{number:04d}-of-{max(counts):04d}.tfrecords" for number in range(max(counts))]
    if missing := [name for name in expected if name not in names]:
        raise DataError(f"{folder}: lacks {len(missing)} of {len(expected)} shards, the first {missing[0]}. {_UNPACK}")
    return [folder / name for name in expected]


def _check_lengths(lengths: dict[Path, list[int]], size: int) -> None:
    """Every record has room for an image, and the shards have equal numbers of records, up to one."""
    most = max(map(len, lengths.values()))
    for shard, sizes in lengths.items():
        if len(sizes) < max(1, most - 1):
            raise DataError(f"{shard}: {len(sizes)} records, where another shard has {most}. {_UNPACK}")
        if min(sizes) < size:
            raise DataError(f"{shard}: a record of {min(sizes)} bytes, expected images of {size}. {_UNPACK}")


def _pixels(record: bytes, side: int, source: str) -> np.ndarray:
    """One image, uint8 ``(3, side, side)``."""
    example = read_example(record, source)
    shape, data = example.get("shape"), example.get("data")
    if shape != [side, side, 3] or not isinstance(data, bytes) or len(data) != 3 * side**2:
        held = len(data) if isinstance(data, bytes) else 0
        raise DataError(
            f"{source}: expected shape {[side, side, 3]} and {3 * side**2} bytes of data, "
            f"got {shape!r:.40} and {held}. Is it one of Glow's files?"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(side, side, 3).transpose(2, 0, 1)


FILES: Form = (KnownFile("celeba-tfr", ("CelebAHQ", "."), unpacked=True),)
"""The folder that celeba-tfr.tar unpacks to; Glow's README (github.com/openai/glow) says where the archive is."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """CelebA-HQ: colour 256 × 256; 26,000 train, 1,000 validation and, its validation images, 3,000 test."""
    train, test = (read_celeba_hq(paths[0], split) for split in ("train", "validation"))
    return unlabelled("celebahq256", train, test, VALIDATION_FACES)


ENTRY = Entry(
    _load,
    "faces, 3 × 256 × 256, as Glow's celeba-tfr.tar unpacks; 6 GB of memory",
    "image",
    (FILES,),
)
