"""A user's own file or folder as a `Dataset`; its suffix says what it is."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from contraflow.data.dataset import Dataset
from contraflow.data.formats.arrays import images_from_array, read_npy, read_npz
from contraflow.data.formats.csv_table import read_csv
from contraflow.data.formats.image_folder import read_image_folder
from contraflow.data.formats.tables import Note, no_note, note_columns, read_parquet
from contraflow.errors import DataError, first_line

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
ARRAY_SUFFIXES = (".npy", ".npz")
_SPLITS = ("train", "validation", "test")
_FEWEST = 10


def load_path(
    path: Path,
    *,
    seed: int,
    columns: Sequence[str] | None = None,
    size: int | None = None,
    grey: bool = False,
    note: Note = no_note,
) -> Dataset:
    """Read a table (CSV, Parquet), an array (.npy, .npz) or a folder of images, split 80 / 10 / 10 by `seed`.

    An .npz file with arrays ``train``, ``validation`` and ``test`` keeps its own split (and ``train_labels`` …).
    The other arguments are those of `read_rows`.

    Raises:
        DataError: absent, another kind of file, or not what its suffix says.
    """
    if has_own_splits(path):
        data = _from_splits(path, read_npz(path))
        note_columns(path, data.event_shape, None, columns, note)
        return data
    rows, names = _rows_and_names(path, columns, size, grey, note)
    return _split(path, rows, seed, names)


def has_own_splits(path: Path) -> bool:
    """Whether a file is an .npz of several arrays: train, validation and test rows."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return len(archive.namelist()) != 1
    except (OSError, zipfile.BadZipFile):
        return False  # the reader reports the broken file


def read_rows(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    grey: bool = False,
    note: Note = no_note,
) -> Tensor:
    """All rows of a file or folder, in their order, unsplit, as `contraflow score` reads them.

    Args:
        path: the file or folder.
        columns: names of the wanted columns, in the wanted order. An array has no names, so its columns keep their
            order. All columns where None.
        size, grey: for a folder of images, see `read_image_folder`.
        note: called with one line on which columns were left out, or that the file has no names to match.

    Raises:
        DataError: absent, another kind of file, not what its suffix says, or an .npz with several arrays.
    """
    return _rows_and_names(path, columns, size, grey, note)[0]


def _rows_and_names(
    path: Path, columns: Sequence[str] | None, size: int | tuple[int, int] | None, grey: bool, note: Note
) -> tuple[Tensor, tuple[str, ...] | None]:
    suffix = path.suffix.lower()
    if is_folder(path):
        return read_image_folder(path, size=size, grey=grey), None
    if suffix in TABLE_SUFFIXES:
        table = (read_parquet if suffix == ".parquet" else read_csv)(path, columns)
        rows = rows_from_array(table.values, str(path), table.columns)
        note_columns(path, tuple(rows.shape[1:]), (*table.columns, *table.left_out), columns, note)
        return rows, table.columns
    rows = _array_rows(path, suffix)
    note_columns(path, tuple(rows.shape[1:]), None, columns, note)
    return rows, None


def is_folder(path: Path) -> bool:
    """Whether an existing path is a folder.

    Raises:
        DataError: the path does not exist, or cannot be read.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder.") from error
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise DataError(f"{path}: cannot be read ({first_line(error)}).") from error


def _array_rows(path: Path, suffix: str) -> Tensor:
    if suffix == ".npy":
        return rows_from_array(read_npy(path), str(path))
    if suffix == ".npz":
        arrays = read_npz(path)
        if len(arrays) != 1:
            raise DataError(f"{path}: expected one array, got {', '.join(arrays) or 'none'}.")
        return rows_from_array(next(iter(arrays.values())), str(path))
    known = ", ".join((*TABLE_SUFFIXES, *ARRAY_SUFFIXES))
    raise DataError(f"{path}: unknown suffix {suffix!r}. Known: {known}, or a folder of images.")


def rows_from_array(values: np.ndarray, source: str, columns: Sequence[str] | None = None) -> Tensor:
    """Rows in the precision of the array, or images.

    Real ``(n, D)`` in float64, or in float32 where the array is no finer; uint8 ``(n, H, W)``, ``(n, C, H, W)`` or
    ``(n, H, W, C)`` as images, C in 1, 3.

    Raises:
        DataError: another shape or dtype, or values that are not finite in float64.
    """
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        return torch.from_numpy(images_from_array(values, source))
    if values.ndim != 2 or values.dtype.kind not in "fiub" or 0 in values.shape:
        raise DataError(
            f"{source}: expected real numbers (n, D) or uint8 images (n, C, H, W), got {values.dtype} {values.shape}."
            + (" Save images as numpy.uint8, 0 … 255." if values.ndim > 2 else "")
        )
    with np.errstate(over="ignore"):
        rows = values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64)
    if not bool(np.isfinite(rows).all()):
        row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
        name = column if columns is None else repr(columns[column])
        raise DataError(
            f"{source}: row {row}, column {name} is {values[row, column]}, not a finite number in {rows.dtype}. "
            "Drop or rescale it."
        )
    return torch.from_numpy(rows)


def split_rows(rows: int, seed: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of 80 % train, 10 % validation and 10 % test rows (the last two rounded down), shuffled by `seed`.

    Raises:
        DataError: fewer than ten rows.

    >>> [len(part) for part in split_rows(25, seed=0, name="example")]
    [21, 2, 2]
    """
    if rows < _FEWEST:
        raise DataError(f"{name}: {rows} rows; at least {_FEWEST} are needed to split off validation and test.")
    order = torch.randperm(rows, generator=Generator().manual_seed(seed))
    held = rows // 10
    return order[: rows - 2 * held], order[rows - 2 * held : rows - held], order[rows - held :]


def _split(path: Path, rows: Tensor, seed: int, columns: tuple[str, ...] | None = None) -> Dataset:
    train, validation, test = (rows[part] for part in split_rows(len(rows), seed, str(path)))
    return Dataset(str(path), train, validation, test, levels=_levels(rows), columns=columns)


def _levels(rows: Tensor) -> int | None:
    return 256 if rows.dtype == torch.uint8 else None


def _from_splits(path: Path, arrays: dict[str, np.ndarray]) -> Dataset:
    known = {*_SPLITS, *(f"{split}_labels" for split in _SPLITS)}
    if not set(_SPLITS) <= arrays.keys() <= known:
        raise DataError(
            f"{path}: expected one array, or {', '.join(_SPLITS)} (and train_labels …), got "
            f"{', '.join(arrays) or 'none'}."
        )
    train, validation, test = (rows_from_array(arrays[split], f"{path}:{split}") for split in _SPLITS)
    labels = {f"{split}_labels": _labels(arrays.get(f"{split}_labels"), str(path)) for split in _SPLITS}
    return Dataset(str(path), train, validation, test, levels=_levels(test), **labels)


def _labels(values: np.ndarray | None, source: str) -> Any:
    if values is None:
        return None
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise DataError(f"{source}: expected labels, whole numbers (n,), got {values.dtype} {values.shape}.")
    return torch.from_numpy(values.astype(np.int64))
