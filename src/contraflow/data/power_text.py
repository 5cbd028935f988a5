"""The text file of POWER as the UCI repository publishes it, ``household_power_consumption.txt``.

Date;Time;active power;reactive power;voltage;intensity;sub-metering 1, 2, 3, one line a minute; a question mark stands
for a missing value, and such lines are dropped.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np

from contraflow.data.tables import as_number
from contraflow.errors import DataError

_CELLS = 9
_TIME = 1
# active power, voltage, three sub-meterings; reactive power and intensity are not part of the published task
_KEPT = (2, 4, 6, 7, 8)


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
    return np.frombuffer(values, dtype=np.float64).reshape(-1, len(_KEPT) + 1).copy()


def _row(path: Path, number: int, line: str) -> list[float]:
    cells = line.split(";")
    clock = cells[_TIME].split(":") if len(cells) == _CELLS else []
    if len(clock) != 3 or not (clock[0].isdecimal() and clock[1].isdecimal()):
        raise DataError(f"{path}, line {number}: expected date;time and seven numbers, got {line[:60]!r}.")
    row = [as_number(cells[place]) for place in _KEPT]
    numbers = [value for value in row if value is not None]
    if len(numbers) < len(row):
        raise DataError(f"{path}, line {number}: a cell is not a finite number in {line[:60]!r}. Download it again.")
    return [*numbers, float(60 * int(clock[0]) + int(clock[1]))]
