"""Tables of numbers from CSV files with a header row."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from contraflow.data.tables import Table, as_number, choose_columns
from contraflow.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")


def read_csv(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Table:
    """Read a CSV file: a header row, then numbers, separated by comma, semicolon, tab or bar.

    Args:
        path: the file, UTF-8.
        columns: names to keep, in this order; all where None.

    Raises:
        DataError: empty, no header, a column absent, a row of another length, or a cell that is not a finite number
            (line and column are named).
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=_sniff(stream), strict=True)
            header = _header(path, next(reader, []))
            chosen = choose_columns(path, header, columns)
            values = _numbers(path, _rows(path, reader, len(header)), header, chosen)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text ({error}). Save it as a UTF-8 CSV file.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}).") from error
    if not values:
        raise DataError(f"{path}: has a header but no rows.")
    return Table(chosen, np.frombuffer(values, dtype=np.float64).reshape(-1, len(chosen)))


def _sniff(stream: TextIO) -> str:
    """The delimiter that cuts the header and the first row into equally many cells, the most; else a comma."""
    cells = dict.fromkeys(_DELIMITERS, 1)
    for delimiter in _DELIMITERS:
        stream.seek(0)
        with suppress(csv.Error, ValueError):  # ValueError: fewer than two lines
            first, second = islice(csv.reader(stream, delimiter=delimiter, strict=True), 2)
            cells[delimiter] = len(first) if len(first) == len(second) else 1
    stream.seek(0)
    return max(_DELIMITERS, key=cells.__getitem__)


def _header(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    if not any(names):
        raise DataError(f"{path}: expected a header row with the names of the columns, got an empty file or line.")
    if all(as_number(name) is not None for name in names):
        raise DataError(f"{path}: the first line holds numbers ({', '.join(names[:4])}…). Add a header row of names.")
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{path}: the header {', '.join(names)} has an empty or repeated name. Rename those columns.")
    return names


def _rows(path: Path, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank."""
    for cells in reader:
        if not cells:
            continue
        line = reader.line_num  # type: ignore[attr-defined]
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: expected {width} cells as in the header, got {len(cells)}.")
        yield line, cells


def _numbers(
    path: Path, rows: Iterable[tuple[int, list[str]]], header: Sequence[str], chosen: Sequence[str]
) -> array[float]:
    values = array("d")
    places = [header.index(name) for name in chosen]
    for line, cells in rows:
        for place in places:
            value = as_number(cells[place])
            if value is None:
                raise DataError(
                    f"{path}, line {line}, column {header[place]!r}: expected a finite number, got {cells[place]!r}. "
                    "Fill or drop missing values, encode categories as numbers, or leave the column out with columns=."
                )
            values.append(value)
    return values
