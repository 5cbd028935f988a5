"""Tables of numbers from CSV files, and from text as numpy writes it."""

from __future__ import annotations

import csv
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np

from contraflow.data.formats.tables import Table, as_number, choose_columns, quoted
from contraflow.errors import DataError

_WHITE_SPACE = " "  # any run of it
#: In the order in which they are tried: a comma may be part of a number, a blank of a name.
_DELIMITERS = (";", "\t", "|", ",", _WHITE_SPACE)
#: Of numpy.savetxt, whose files need no header.
_NUMPY_SUFFIX = ".txt"

#: The first line by which Excel names the delimiter.
_DECLARED = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+(e[+-]?\d+)?", re.IGNORECASE)
_MISSING = {"", "?", "-", ".", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None", "none"}

#: Number of a line, and the cells in it.
Record = tuple[int, list[str]]


def read_csv(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Table:
    """Read a CSV file: a header row, then numbers, separated by comma, semicolon, tab, bar or white space.

    A first line ``sep=;`` names the delimiter, as Excel has it. Lines of comment (``#``) may stand above the table; the
    last of them is the header where numbers follow, as numpy.savetxt writes it. A .txt file may have no header at all:
    its columns are then x1, x2 and so on.

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
            header, records = _header_and_records(path, stream)
            chosen = choose_columns(path, header, columns)
            values = _numbers(path, records, header, chosen)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text ({error}). Save it as a UTF-8 CSV file.") from error
    except (OSError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}). Expected a header row of names, then rows with as many numbers."
        ) from error
    if not values:
        raise DataError(f"{path}: has a header but no rows.")
    left_out = tuple(name for name in header if name not in chosen)
    return Table(chosen, np.frombuffer(values, dtype=np.float64).reshape(-1, len(chosen)), left_out)


def _header_and_records(path: Path, stream: TextIO) -> tuple[tuple[str, ...], Iterator[Record]]:
    """The names of the columns, and the records below them."""
    above, delimiter, comment = _above(stream)
    delimiter = delimiter or _sniff(stream, above, comment)
    records = _records(_lines(stream, above), delimiter, above)
    first = next(records, (0, []))
    cells = [cell.strip() for cell in first[1]]
    if not any(cells):
        raise DataError(f"{path}: expected a header row with the names of the columns, got an empty file or line.")
    if len(commented := _commented(comment, delimiter)) == len(cells) and any(map(_is_number, cells)):
        return commented, chain([first], records)
    if not all(_is_number(cell) or cell in _MISSING for cell in cells):
        return tuple(cells), records
    counted = [str(place) for place in range(len(cells))]  # pandas writes such names for columns without any
    if path.suffix.lower() == _NUMPY_SUFFIX and (cells != counted or len(cells) == 1):
        return tuple(f"x{place + 1}" for place in range(len(cells))), chain([first], records)
    example = delimiter.join(f"x{place + 1}" for place in range(min(len(cells), 4)))
    raise DataError(
        f"{path}: the first line holds numbers ({', '.join(cells[:4])}…) and no names of columns. Add a header row of "
        f"names above them: {example}…"
    )


def _above(stream: TextIO) -> tuple[int, str | None, str]:
    """The number of lines above the table, the delimiter declared there, and the last line of comment without its #."""
    above, comment, line = 0, "", stream.readline()
    if declared := _DECLARED.fullmatch(line.rstrip("\r\n")):
        above, line = 1, stream.readline()
    while line.startswith("#"):
        above, comment, line = above + 1, line.lstrip("#").strip(" \r\n"), stream.readline()
    return above, declared and declared[1], comment


def _lines(stream: TextIO, above: int) -> TextIO:
    """The stream below so many lines."""
    stream.seek(0)
    for _ in range(above):
        stream.readline()
    return stream


def _sniff(stream: TextIO, above: int, comment: str) -> str:
    """The delimiter that cuts header and first row, or two rows, into as many cells, two at least; else a comma."""
    for upper in ([], [comment]):
        for delimiter in _DELIMITERS:
            with suppress(csv.Error, ValueError):  # ValueError: fewer than two records
                (_, first), (_, second) = islice(_records(chain(upper, _lines(stream, above)), delimiter), 2)
                if len(first) == len(second) > 1:
                    return delimiter
    return ","


def _records(lines: Iterable[str], delimiter: str, above: int = 0) -> Iterator[Record]:
    """Every record that is not blank."""
    if delimiter == _WHITE_SPACE:
        lines = (" ".join(line.split()) for line in lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    for cells in reader:
        if cells:
            yield above + reader.line_num, cells


def _commented(comment: str, delimiter: str) -> tuple[str, ...]:
    """The names in a line of comment; # is itself a name where the first cell holds nothing else."""
    for _, cells in _records([comment], delimiter):
        return (cells[0].strip() or "#", *(cell.strip() for cell in cells[1:]))
    return ()


def _is_number(cell: str) -> bool:
    """Whether a cell is a number in any notation, finite or not."""
    try:
        float(cell)
    except ValueError:
        return _DECIMAL_COMMA.fullmatch(cell) is not None
    return True


def _numbers(path: Path, records: Iterable[Record], header: Sequence[str], chosen: Sequence[str]) -> array[float]:
    values = array("d")
    places = [header.index(name) for name in chosen]
    width = len(header)
    for line, cells in records:
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: expected {width} cells as in the header, got {len(cells)}.")
        for place in places:
            value = as_number(cells[place])
            if value is None:
                raise DataError(
                    f"{path}, line {line}, column {header[place]!r}: expected a finite number, got {cells[place]!r}. "
                    f"{_remedy(cells[place].strip(), header)}"
                )
            values.append(value)
    return values


def _remedy(cell: str, header: Sequence[str]) -> str:
    """Advice for a cell that is not a number."""
    if _DECIMAL_COMMA.fullmatch(cell):
        return "Write numbers with a decimal point and nothing between thousands: 1234.5."
    doubt = [name for name in header if _is_number(name)]
    hint = f" If the first line is no header ({quoted(doubt)}), add a row of names above it." if doubt else ""
    return f"Fill or drop missing values, encode categories as numbers, or leave the column out with columns=.{hint}"
