"""Tables of numbers from CSV and Parquet files."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contraflow.errors import DataError

#: Called with one line of text for the user.
Note = Callable[[str], None]

#: Names that pandas gives to a column and to an index without a name.
_NAMELESS = re.compile(r"|Unnamed: \d+")
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of numbers.

    Attributes:
        columns: their names.
        values: float64 ``(n, D)``.
        left_out: names of the other columns of the file.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    left_out: tuple[str, ...] = ()


def choose_columns(source: str | Path, present: Sequence[str], wanted: Iterable[str] | None) -> tuple[str, ...]:
    """The wanted names, checked; all names of the source where None is given.

    Raises:
        DataError: names are absent (the nearest ones are named), ambiguous or given twice, or there is none.
    """
    chosen = tuple(present if wanted is None else wanted)
    if missing := [name for name in chosen if name not in present]:
        known = {name.casefold(): repr(name) for name in present}
        near = [difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.4) for name in missing]
        nearest = dict.fromkeys(known[name] for names in near for name in names)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise DataError(f"{source}: has no {quoted(missing)}.{hint} Columns: {', '.join(present)}.")
    for name in chosen:
        if wanted is None and _NAMELESS.fullmatch(name):
            raise DataError(
                f"{source}: column {present.index(name) + 1} has no name ({name!r}); the index that pandas writes has "
                "none. Save the table without it (index=False), or choose the other columns with columns=."
            )
        if present.count(name) > 1:
            raise DataError(f"{source}: the name {name!r} is repeated. Rename all but one of those columns.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise DataError(f"{source}: expected distinct column names, at least one, got {', '.join(chosen) or 'none'}.")
    return chosen


def note_columns(
    source: str | Path,
    shape: tuple[int, ...],
    present: Sequence[str] | None,
    wanted: Sequence[str] | None,
    note: Note,
) -> None:
    """Tell the user in one line how the columns of a source are used by a run, where names leave a doubt.

    Args:
        source: where the rows are from, for the line.
        shape: of one row.
        present: names of all its columns; ``None`` where it has no names.
        wanted: names of the columns of the run; ``None`` where it knows none.
        note: called with the line.
    """
    if present is not None and wanted is not None:
        if left_out := [name for name in present if name not in wanted]:
            note(f"{source}: {quoted(left_out)} left out; the run was trained without.")
    elif present is not None and len(shape) == 1:
        note(f"{source}: the run knows no names of columns, so they are taken in their order: {quoted(present)}.")
    elif wanted is not None and shape == (len(wanted),):
        note(f"{source}: has no names of columns, so they are taken in their order as {quoted(wanted)}.")


def no_note(text: str) -> None:
    """The `Note` that ignores its text."""


def quoted(names: Sequence[str], most: int = 6) -> str:
    """Names of columns in words.

    >>> quoted(["a"]), quoted(["a", "b", "c"], most=2)
    ("column 'a'", "columns 'a', 'b' and 1 more")
    """
    more = f" and {len(names) - most} more" if names[most:] else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:most]))}{more}"


def read_parquet(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Table:
    """Read a Parquet file with pyarrow.

    Args:
        path: the file.
        columns: names to keep, in this order; all where None, less the index of pandas, as pandas itself reads them.

    Raises:
        DataError: pyarrow is not installed; not a Parquet file; a column is absent or not numeric; a value is missing
            or not finite.
    """
    path = Path(path)
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'contraflow[parquet]'.") from error
    try:
        schema = parquet.read_schema(path)
        index = _index_columns(schema.metadata or {})
        own = [name for name in schema.names if name not in index and not _INDEX.fullmatch(name)]
        present = own if columns is None else schema.names
        chosen = choose_columns(path, present, columns)
        table = parquet.read_table(path, columns=list(chosen))
        values = [_parquet_column(path, name, table.column(name)) for name in chosen]
    except DataError:
        raise
    except Exception as error:  # pyarrow has its own family of errors, and mixes it with the built-in ones
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected a Parquet file ({type(error).__name__}: {reason}).") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: the table has no rows.")
    left_out = tuple(name for name in schema.names if name not in chosen)
    return Table(chosen, np.stack(values, axis=1), left_out)


def _index_columns(metadata: Mapping[bytes, bytes]) -> set[str]:
    """The columns that pandas has written its index to; an index of 0, 1, 2 … is described there and not stored."""
    names = json.loads(metadata.get(b"pandas", b"{}")).get("index_columns", [])
    return {name for name in names if isinstance(name, str)}


def _parquet_column(path: Path, name: str, column: object) -> np.ndarray:
    kind = str(column.type)  # type: ignore[attr-defined]
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool", "decimal")):
        raise DataError(f"{path}: column {name!r} holds {kind}, expected numbers. Choose others with columns=.")
    if column.null_count:  # type: ignore[attr-defined]
        raise DataError(f"{path}: column {name!r} lacks {column.null_count} values. Fill or drop those rows.")  # type: ignore[attr-defined]
    # not safe: integers beyond 2⁵³, nanoseconds since 1970 for one, are rounded as those of a CSV file are
    values = np.asarray(column.cast("float64", safe=False).to_numpy(), dtype=np.float64)  # type: ignore[attr-defined]
    if not bool(np.isfinite(values).all()):
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"{path}: row {row} of column {name!r} is {values[row]}. Fill or drop that row.")
    return values


def as_number(cell: str) -> float | None:
    """The finite number in a cell, or ``None``.

    >>> as_number(" 2.5 "), as_number("nan"), as_number("1_000")
    (2.5, None, None)
    """
    if "_" in cell:  # Python reads 1_000 as a thousand; in a data file it is more likely a mistake
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
