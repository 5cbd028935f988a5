"""MINIBOONE: electron neutrinos in the MiniBooNE detector, of the UCI set 199 of B. Roe, 2010.

The published task (`contraflow.data.sets.published_tables`) takes the rows of signal, drops eleven that hold -999 in
every column, and the seven of fifty columns in which more than five rows share the smallest value. Columns are
standardised by the train and validation rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.arrays import read_npy
from contraflow.data.formats.number_text import read_number_text
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published_tables import (
    ARCHIVE,
    require_width,
    split_table,
    standardised,
    tenth,
    without_repeats,
)
from contraflow.errors import DataError

_COLUMNS, _RAW_COLUMNS = 43, 50
#: A row whose first column is below this was not measured.
_NOT_MEASURED = -100


def read_miniboone_text(path: Path) -> np.ndarray:
    """The rows and columns of the published task from UCI's file, float64 ``(n, 43)``.

    The first line has the numbers of rows of signal and of background, and signal comes first.

    Raises:
        DataError: another kind of file, or a broken line.
    """
    header, rows = read_number_text(path, range(_RAW_COLUMNS))
    counts = header.split()
    if len(counts) != 2 or not all(count.isdecimal() for count in counts) or sum(map(int, counts)) != len(rows):
        raise DataError(
            f"{path}: expected a first line with the numbers of signal and background, together {len(rows)} rows, "
            f"got {header[:60]!r}. Download it again."
        )
    signal = rows[: int(counts[0])]
    signal = signal[signal[:, 0] >= _NOT_MEASURED]
    if not len(signal):
        raise DataError(f"{path}: no row of signal.")
    return signal[:, without_repeats(signal)]


def load_miniboone(path: Path) -> Dataset:
    """The published splits: the last tenth for the test, the last tenth of the others for validation; float32.

    Args:
        path: the archive's ``data.npy``, or UCI's ``MiniBooNE_PID.txt``.

    Raises:
        DataError: the file is not what is expected.
    """
    rows = read_miniboone_text(path) if path.suffix == ".txt" else read_npy(path).astype(np.float64)
    rows = require_width(rows, _COLUMNS, path)
    fit = rows[: len(rows) - tenth(len(rows))]
    return split_table("miniboone", standardised(rows, fit, "miniboone"))


FILES: Form = (KnownFile("data.npy", ("miniboone", f"{ARCHIVE}/miniboone")),)
"""As the archive of Papamakarios et al. has it."""

TEXT_FILES: Form = (KnownFile("MiniBooNE_PID.txt", ("miniboone", ".")),)
"""As UCI has it: set 199, archive.ics.uci.edu/dataset/199."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """MINIBOONE: 43 columns, standardised; 29,556 train, 3,284 validation, 3,648 test."""
    return load_miniboone(paths[0])


ENTRY = Entry(
    _load,
    "neutrinos (UCI set 199), 43 columns",
    "table",
    (FILES, TEXT_FILES),
    shape=(29_556, 3_284, 3_648, 43),
    gaussian=-37.24,
)
