"""CIFAR-10: the binary release, the Python release, and either of them inside its archive.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. A binary record is one label byte and
3072 pixel bytes: the red, green and blue planes of 32 × 32, row by row.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.restricted_pickle import read_restricted_pickle
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published import Labelled, labelled
from contraflow.errors import DataError

_PIXELS = 3 * 32 * 32
_CLASSES = 10
_TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
_TEST = ("test_batch",)
# an official batch has 31 MB; a file of more than this is none
_LARGEST_BATCH = 64 << 20


def read_cifar10(paths: Sequence[Path]) -> tuple[Labelled, Labelled]:
    """Train and test images with their labels.

    Args:
        paths: the six batch files of either release, or one ``.tar.gz`` that holds them.

    Raises:
        DataError: a batch is absent, truncated or not what its name says.
    """
    contents = _from_archive(paths[0]) if _is_archive(paths) else {path.stem: _from_file(path) for path in paths}
    missing = [name for name in (*_TRAIN, *_TEST) if name not in contents]
    if missing:
        where = paths[0] if _is_archive(paths) else paths[0].parent
        raise DataError(f"{where}: lacks the batches {', '.join(missing)}. Download the official files again.")
    train, test = ([_read_batch(*contents[name]) for name in names] for names in (_TRAIN, _TEST))
    return _joined(train), _joined(test)


def read_cifar_binary(content: bytes, source: str) -> Labelled:
    """Images and labels of one ``.bin`` batch.

    Raises:
        DataError: empty, not a whole number of records, or a label above 9.
    """
    record = 1 + _PIXELS
    if len(content) == 0 or len(content) % record:
        raise DataError(
            f"{source}: expected a whole number of records of {record} bytes, got {len(content)} bytes. "
            "Download it again."
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return _labelled(rows[:, 1:], rows[:, 0], source)


def read_cifar_python(content: bytes, source: str) -> Labelled:
    """Images and labels of one pickled batch, read without running it.

    Raises:
        DataError: not such a pickle, or its arrays do not fit together.
    """
    batch = read_restricted_pickle(content, source)
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or len(pixels) == 0:
        raise DataError(f"{source}: expected 'data' of shape (n, {_PIXELS}), got {getattr(pixels, 'shape', None)}.")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(k) is int for k in labels):
        raise DataError(f"{source}: expected 'labels', a list of {len(pixels)} integers.")
    if not all(0 <= k < _CLASSES for k in labels):
        raise DataError(f"{source}: labels must lie in 0…{_CLASSES - 1}, got {min(labels)}…{max(labels)}.")
    return _labelled(pixels, np.array(labels, dtype=np.uint8), source)


def _labelled(pixels: np.ndarray, labels: np.ndarray, source: str) -> Labelled:
    if int(labels.max()) >= _CLASSES:
        raise DataError(f"{source}: labels must lie in 0…{_CLASSES - 1}, got {int(labels.max())}. Is it CIFAR-10?")
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(labels.astype(np.int64))


def _joined(batches: Sequence[Labelled]) -> Labelled:
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def _is_archive(paths: Sequence[Path]) -> bool:
    return len(paths) == 1 and paths[0].name.endswith((".tar.gz", ".tgz"))


def _read_batch(name: str, content: bytes, source: str) -> Labelled:
    return (read_cifar_binary if name.endswith(".bin") else read_cifar_python)(content, source)


def _from_file(path: Path) -> tuple[str, bytes, str]:
    try:
        if path.stat().st_size > _LARGEST_BATCH:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a CIFAR-10 batch has 30,730,000. Download it again.")
        return path.name, path.read_bytes(), str(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def _from_archive(path: Path) -> dict[str, tuple[str, bytes, str]]:
    """The batches by stem. Members are read into memory by name and never written, so no path in them matters."""
    batches = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name)
                if not member.isreg() or name.stem not in (*_TRAIN, *_TEST) or name.suffix not in ("", ".bin"):
                    continue
                if member.size > _LARGEST_BATCH:
                    raise DataError(f"{path}: member {member.name} claims {member.size} bytes; a batch has 30,730,000.")
                stream = archive.extractfile(member)
                content = stream.read() if stream is not None else b""
                batches[name.stem] = (name.name, content, f"{path}:{member.name}")
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: expected a complete .tar.gz archive ({error}). Download it again.") from error
    return batches


_PAGE = "https://www.cs.toronto.edu/~kriz/"


def _batches(folder: str, suffix: str, sums: dict[str, str]) -> Form:
    return tuple(KnownFile(f"{stem}{suffix}", (f"CIFAR10/{folder}", folder), md5) for stem, md5 in sums.items())


def _archive(name: str, md5: str) -> Form:
    return (KnownFile(name, ("CIFAR10", "."), md5, (_PAGE + name,)),)


BINARY: Form = _batches(
    "cifar-10-batches-bin",
    ".bin",
    {
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)

PYTHON: Form = _batches(
    "cifar-10-batches-py",
    "",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)

BINARY_ARCHIVE: Form = _archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
PYTHON_ARCHIVE: Form = _archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """CIFAR-10: colour 32 × 32, ten classes; 45,000 train, 5,000 validation, 10,000 test."""
    return labelled("cifar10", *read_cifar10(paths))


ENTRY = Entry(
    _load,
    "photographs of ten classes, 3 × 32 × 32",
    "image",
    (BINARY, PYTHON, BINARY_ARCHIVE, PYTHON_ARCHIVE),
)
