"""Large text files: one line of header, then one row of numbers a line."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from contraflow.errors import DataError

#: Characters of a line; a longer one is not a row of numbers.
_LONGEST = 10_000


def read_number_text(
    path: Path, columns: Sequence[int], *, delimiter: str | None = None, rows: int | None = None
) -> tuple[str, np.ndarray]:
    """The first line and, of the lines below it, the numbers in some columns.

    Args:
        path: the file; decompressed as it is read where its name ends in .gz.
        columns: places of the columns, counted from 0; others are skipped, whatever they hold.
        delimiter: between two numbers; any white space when not given.
        rows: read only so many rows.

    Returns:
        The header, and float64 ``(rows, columns)``.

    Raises:
        DataError: the file cannot be read, has no rows, or a cell is absent or not a finite number.
    """
    try:
        with _opened(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without rows, which is refused below
            lines = _lines(stream, path)
            header = next(lines, "").strip()
            body = islice(lines, rows)
            values = np.loadtxt(body, delimiter=delimiter, usecols=columns, comments=None, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # of a broken gzip file, or of text
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected one row of numbers a line below a header ({reason}).") from error
    if not len(values):
        raise DataError(f"{path}: no rows below the first line. Download it again.")
    if not bool(np.isfinite(values).all()):
        row, place = np.argwhere(~np.isfinite(values))[0].tolist()
        raise DataError(f"{path}, line {row + 2}, column {columns[place] + 1}: not a finite number. Download it again.")
    return header, values


def _opened(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="ascii") if path.suffix == ".gz" else path.open(encoding="ascii")


def _lines(stream: TextIO, path: Path) -> Iterator[str]:
    while line := stream.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise DataError(f"{path}: a line of {_LONGEST} characters or more, which is not a row of numbers.")
        yield line
