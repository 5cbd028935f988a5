"""Tables that pandas pickled, read without pandas and without running anything that the pickle names.

From pandas 0.14.1 to 1.2 a DataFrame was pickled as its axes and as blocks of columns of one type: the state of the
block manager holds under the key 0.14.1 the index of the columns, and of every block its values ``(columns, rows)`` and
the places of its columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from contraflow.data.formats.restricted_pickle import (
    ArrayRecord,
    ObjectRecord,
    array_from_record,
    as_text,
    load_records,
    not_a_pickle_of,
)
from contraflow.data.formats.tables import Table
from contraflow.errors import DataError

_NUMBERS = ("f8", "f4", "i8", "i4")
_LAYOUT = "0.14.1"


def read_pickled_frame(path: Path) -> Table:
    """The columns of numbers of a pickled `pandas.DataFrame`, as pandas 0.14.1 to 1.2 wrote it.

    Raises:
        DataError: the file cannot be read, is no such pickle, or names anything else than numpy and pandas.
    """
    try:
        frame = load_records(path.read_bytes(), "pandas")
        manager = _record(_texts(_record(frame).state).get("_data"))
        layout = _texts(_texts(manager.state[3])[_LAYOUT])
        names = _labels(layout["axes"][0])
        columns: dict[str, np.ndarray] = {}
        for block in layout["blocks"]:
            columns |= _columns(_texts(block), names)
        values = np.stack([columns[name].astype(np.float64) for name in names], axis=1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    except Exception as error:  # a broken pickle can raise nearly anything
        expected = "a pandas.DataFrame of numbers, written by pandas 0.14.1 to 1.2"
        raise not_a_pickle_of(expected, str(path), error) from error
    return Table(names, values)


def _record(value: object) -> ObjectRecord:
    if not isinstance(value, ObjectRecord):
        raise DataError(f"a {type(value).__name__} is inside where pandas has an object")
    return value


def _texts(value: Any) -> dict[str, Any]:
    """A dictionary by its keys as text, which Python 2 wrote as bytes."""
    return {as_text(key): item for key, item in dict(value).items()}


def _labels(index: object) -> tuple[str, ...]:
    """The labels of an index of texts, which pandas makes of (its class, {data: array of objects, …})."""
    record = _texts(_record(index).arguments[1])["data"]
    if (
        not isinstance(record, ArrayRecord)
        or not isinstance(record.state, tuple)
        or not isinstance(record.state[4], list)
    ):
        raise DataError("the columns have no names")
    return tuple(map(as_text, record.state[4]))


def _columns(block: dict[str, Any], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Name → values of the columns of one block."""
    places = block["mgr_locs"]
    if isinstance(places, ArrayRecord):
        places = array_from_record(places, _NUMBERS)
    chosen = np.arange(len(names))[places].tolist()
    return dict(zip([names[place] for place in chosen], array_from_record(block["values"], _NUMBERS), strict=True))
