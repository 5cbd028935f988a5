"""Tables of numbers from CSV and Parquet files."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contraflow.errors import DataError


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of numbers: `values` is float64 ``(n, D)``."""

    columns: tuple[str, ...]
    values: np.ndarray


def choose_columns(path: Path, present: Sequence[str], wanted: Iterable[str] | None) -> tuple[str, ...]:
    """The wanted names, checked; all of those present where None is given.

    Raises:
        DataError: a name is absent (the nearest one is named), given twice, or none is left.
    """
    chosen = tuple(present if wanted is None else wanted)
    for name in chosen:
        if name not in present:
            nearest = difflib.get_close_matches(name, present, n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise DataError(f"{path}: has no column {name!r}.{hint} Columns: {', '.join(present)}.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise DataError(f"{path}: expected distinct column names, at least one, got {', '.join(chosen) or 'none'}.")
    return chosen


def read_parquet(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Table:
    """Read a Parquet file with pyarrow.

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
        present = parquet.read_schema(path).names
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
    return Table(chosen, np.stack(values, axis=1))


def _parquet_column(path: Path, name: str, column: object) -> np.ndarray:
    kind = str(column.type)  # type: ignore[attr-defined]
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool", "decimal")):
        raise DataError(f"{path}: column {name!r} holds {kind}, expected numbers. Choose others with columns=.")
    if column.null_count:  # type: ignore[attr-defined]
        raise DataError(f"{path}: column {name!r} lacks {column.null_count} values. Fill or drop those rows.")  # type: ignore[attr-defined]
    values = np.asarray(column.cast("float64").to_numpy(), dtype=np.float64)  # type: ignore[attr-defined]
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
