"""POWER: household electric power consumption, with the splits that every flow paper uses.

G. Papamakarios, T. Pavlakou, I. Murray, "Masked autoregressive flow for density estimation", 2017 (arXiv:1705.07057),
on the UCI set of G. Hébrail and A. Bérard, 2012. Test scores are nats per row, of the standardised columns.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.arrays import read_npy, read_npz
from contraflow.data.formats.tables import as_number
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published_tables import ARCHIVE, require_width, split_table, standardised, tenth
from contraflow.errors import DataError

COLUMNS = ("active_power", "voltage", "sub_metering_1", "sub_metering_2", "sub_metering_3", "minutes")
_SEED = 42
# column of the raw file and what its integers are divided by: kW, V, and Wh three times
_KEPT = ((0, 1000), (2, 100), (4, 1), (5, 1), (6, 1))
_MINUTES_A_DAY = 1440
# the text file: date;time;active power;reactive power;voltage;intensity;sub-metering 1, 2, 3, one line a minute; a
# question mark stands for a missing value, and such lines are dropped
_TEXT_CELLS = 9
_TIME = 1
# active power, voltage, three sub-meterings; reactive power and intensity are not part of the published task
_TEXT_KEPT = (2, 4, 6, 7, 8)
# columns of the archive's array: active and reactive power, voltage, intensity, three sub-meterings, time
_ARRAY_COLUMNS, _ARRAY_KEPT = 8, [0, 2, 4, 5, 6, 7]
# smoothing noise, U(0, width), in the order in which the published splits draw it; columns of COLUMNS
_NOISE = ((slice(1, 2), 0.01), (slice(0, 1), 0.001), (slice(2, 5), 1.0))


def read_power_rows(path: Path) -> np.ndarray:
    """The complete rows in time order, float64 ``(n, 6)`` with the columns of `COLUMNS`.

    The file holds each measured column as differences of integers ``d0``…``d6``, and the times as ``runs`` of
    consecutive minutes, (first minute, count).

    Raises:
        DataError: not such a file.
    """
    arrays = read_npz(path)
    missing = {"runs", *(f"d{column}" for column, _ in _KEPT)} - arrays.keys()
    if missing:
        raise DataError(f"{path}: lacks the arrays {', '.join(sorted(missing))}. Is it power_raw.npz?")
    runs = arrays["runs"].astype(np.int64)
    count = len(arrays["d0"])
    if runs.ndim != 2 or runs.shape[1] != 2 or (runs < 0).any() or int(runs[:, 1].sum()) != count:
        raise DataError(f"{path}: the runs of minutes do not add up to {count} rows. Copy the file again.")
    rows = np.empty((count, len(COLUMNS)))
    for place, (column, scale) in enumerate(_KEPT):
        if arrays[f"d{column}"].shape != (count,):
            raise DataError(f"{path}: d{column} has shape {arrays[f'd{column}'].shape}, expected ({count},).")
        rows[:, place] = np.cumsum(arrays[f"d{column}"], dtype=np.int64) / scale
    rows[:, -1] = np.concatenate([np.arange(start, start + length) for start, length in runs]) % _MINUTES_A_DAY
    return rows


def read_power_text(path: str | os.PathLike[str]) -> np.ndarray:
    """The complete rows in the order of the file, float64 ``(n, 6)``: kW, V, three times Wh, minutes since midnight.

    Raises:
        DataError: another kind of file, or a broken line, which is named.
    """
    path = Path(path)
    values = array("d")
    try:
        with path.open(encoding="ascii") as stream:
            header = stream.readline()
            if not header.startswith("Date;Time;Global_active_power"):
                raise DataError(f"{path}: expected the header Date;Time;Global_active_power…, got {header[:60]!r}.")
            for number, line in enumerate(stream, start=2):
                if "?" not in line:
                    values.extend(_row(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Download it again.") from error
    if not values:
        raise DataError(f"{path}: has no complete row. Download it again.")
    return np.frombuffer(values, dtype=np.float64).reshape(-1, len(_TEXT_KEPT) + 1).copy()


def read_power_array(path: Path) -> np.ndarray:
    """The rows of the archive's ``data.npy``, float64 ``(n, 6)``: the columns of `COLUMNS`, and two that are dropped.

    Raises:
        DataError: another kind of array.
    """
    return require_width(read_npy(path), _ARRAY_COLUMNS, path)[:, _ARRAY_KEPT].astype(np.float64)


def _row(path: Path, number: int, line: str) -> list[float]:
    cells = line.split(";")
    clock = cells[_TIME].split(":") if len(cells) == _TEXT_CELLS else []
    if len(clock) != 3 or not (clock[0].isdecimal() and clock[1].isdecimal()):
        raise DataError(f"{path}, line {number}: expected date;time and seven numbers, got {line[:60]!r}.")
    row = [as_number(cells[place]) for place in _TEXT_KEPT]
    numbers = [value for value in row if value is not None]
    if len(numbers) < len(row):
        raise DataError(f"{path}, line {number}: a cell is not a finite number in {line[:60]!r}. Download it again.")
    return [*numbers, float(60 * int(clock[0]) + int(clock[1]))]


def load_power(path: Path) -> Dataset:
    """The published splits, standardised with mean and std of train and validation together; float32.

    Args:
        path: ``power_raw.npz``, the text file of the UCI repository, or the archive's ``data.npy``.

    Raises:
        DataError: the file is not what is expected.
    """
    read = {".txt": read_power_text, ".npy": read_power_array}.get(path.suffix, read_power_rows)
    rows = read(path)
    # The published splits are defined by this generator and this order of draws; any other makes scores incomparable.
    random = np.random.RandomState(_SEED)
    order = np.arange(len(rows))
    random.shuffle(order)
    rows = rows[order]
    for columns, width in _NOISE:
        rows[:, columns] += width * random.rand(len(rows), columns.stop - columns.start)
    fit = rows[: len(rows) - tenth(len(rows))]
    return split_table("power", standardised(rows, fit, "power"), columns=COLUMNS)


FILES: Form = (KnownFile("power_raw.npz", ("POWER", ".")),)
"""A compact copy of the complete rows."""

TEXT_FILES: Form = (KnownFile("household_power_consumption.txt", ("POWER", ".")),)
"""As published: unpack it from set 235 of the UCI repository, archive.ics.uci.edu/dataset/235."""

ARRAY_FILES: Form = (KnownFile("data.npy", ("power", f"{ARCHIVE}/power")),)
"""As the archive of Papamakarios et al. has it."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """POWER: six columns, standardised; 1,659,917 train, 184,435 validation, 204,928 test."""
    return load_power(paths[0])


ENTRY = Entry(
    _load,
    "household electric power (UCI set 235), 6 columns",
    "table",
    (FILES, TEXT_FILES, ARRAY_FILES),
    shape=(1_659_917, 184_435, 204_928, 6),
    gaussian=-7.74,
)
