"""GAS: eight sensors in mixtures of ethylene and carbon monoxide, of the UCI set 322 of J. Fonollosa, 2015.

The published task (`contraflow.data.sets.published_tables`) has a quarter of the 4,208,261 rows, drawn at random. The
time and the two concentrations are left out. As long as two of the sixteen sensors correlate by more than 0.98, the
first such sensor is dropped. All rows together are standardised, before they are split.

The archive holds that quarter. From UCI's text file another quarter is drawn, with a fixed seed: as many rows of the
same distribution, so scores are comparable with published ones up to the error of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.number_text import read_number_text
from contraflow.data.formats.pickled_frame import read_pickled_frame
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published_tables import ARCHIVE, require_width, split_table, standardised
from contraflow.errors import DataError

_SENSORS = 16
#: The archive's names of the time, and of the concentrations of carbon monoxide (sic) and ethylene.
_NOT_SENSORS = ("Time", "Meth", "Eth")
_CORRELATED = 0.98
_DRAWN, _SEED = 0.25, 0


def read_gas_pickle(path: Path) -> np.ndarray:
    """The sensors of the archive's table, float64 ``(n, 16)``.

    Raises:
        DataError: another kind of file, or a table of other columns.
    """
    table = read_pickled_frame(path)
    if missing := [name for name in _NOT_SENSORS if name not in table.columns]:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}.")
    sensors = [place for place, name in enumerate(table.columns) if name not in _NOT_SENSORS]
    return require_width(table.values[:, sensors], _SENSORS, path)


def read_gas_text(path: Path) -> np.ndarray:
    """The sensors of a quarter of the rows of UCI's ``ethylene_CO.txt``, float64 ``(n, 16)``; reads 4.2 million lines.

    Raises:
        DataError: another kind of file, or a broken line.
    """
    first = len(_NOT_SENSORS)
    header, rows = read_number_text(path, range(first, first + _SENSORS))
    if not header.startswith("Time (seconds)"):
        raise DataError(f"{path}: expected a first line Time (seconds), …, got {header[:60]!r}.")
    return rows[np.random.RandomState(_SEED).permutation(len(rows))[: round(_DRAWN * len(rows))]]


def uncorrelated(rows: np.ndarray) -> list[int]:
    """Places of the columns that are left when the first of those that correlate with another is dropped, repeatedly.

    >>> uncorrelated(np.array([[1.0, 2.0, 0.0], [2.0, 4.1, 1.0], [3.0, 6.0, 0.0]]))
    [1, 2]
    """
    correlated = np.corrcoef(rows, rowvar=False) > _CORRELATED
    kept = list(range(rows.shape[1]))
    while (partners := correlated[np.ix_(kept, kept)].sum(axis=1)).max() > 1:
        del kept[int(np.argmax(partners > 1))]
    return kept


def load_gas(path: Path) -> Dataset:
    """The published splits: the last tenth for the test, the last tenth of the others for validation; float32.

    Args:
        path: the archive's ``ethylene_CO.pickle``, or UCI's ``ethylene_CO.txt``.

    Raises:
        DataError: the file is not what is expected.
    """
    rows = read_gas_text(path) if path.suffix == ".txt" else read_gas_pickle(path)
    rows = standardised(rows, rows, "gas", correction=1)
    kept = uncorrelated(rows)
    return split_table("gas", rows[:, kept], columns=[f"sensor_{place + 1}" for place in kept])


FILES: Form = (KnownFile("ethylene_CO.pickle", ("gas", f"{ARCHIVE}/gas", ".")),)
"""As the archive of Papamakarios et al. has it."""

TEXT_FILES: Form = (KnownFile("ethylene_CO.txt", ("gas", ".")),)
"""As UCI has it: unpack it from set 322, archive.ics.uci.edu/dataset/322."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """GAS: eight columns, standardised; 852,174 train, 94,685 validation, 105,206 test."""
    return load_gas(paths[0])


ENTRY = Entry(
    _load,
    "gas sensors (UCI set 322), 8 columns",
    "table",
    (FILES, TEXT_FILES),
    shape=(852_174, 94_685, 105_206, 8),
    gaussian=-3.58,
)
