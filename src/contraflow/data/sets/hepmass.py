"""HEPMASS: simulated collisions in which a particle of mass 1000 arises, of the UCI set 347 of D. Whiteson, 2016.

The published task (`contraflow.data.sets.published_tables`) takes the signal among the first tenth of UCI's rows for
the mass 1000, and drops the columns in which more than five rows share the smallest value. Columns are standardised by
the train and validation rows; the test rows are those of UCI's own test file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.number_text import read_number_text
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published_tables import ARCHIVE, split_table, standardised, without_repeats
from contraflow.errors import DataError

_FEATURES = 27
#: Rows of the archive's files, the first tenth of UCI's.
_TRAIN_ROWS, _TEST_ROWS = 700_000, 350_000


def read_hepmass(path: Path, rows: int) -> np.ndarray:
    """The signal among the first rows of a file of UCI, float64 ``(n, 27)``: label 1, then 27 features.

    Cells behind the features are ignored: the header of the test file has one name more.

    Args:
        path: CSV, plain or ``.gz``.
        rows: how many to read.

    Raises:
        DataError: another kind of file, a broken line, or no signal.
    """
    header, values = read_number_text(path, range(1 + _FEATURES), delimiter=",", rows=rows)
    if "label" not in header.partition(",")[0]:
        raise DataError(f"{path}: expected a header that begins with # label, got {header[:60]!r}.")
    signal = values[values[:, 0] == 1, 1:]
    if not len(signal):
        raise DataError(f"{path}: no row of signal, whose label is 1.")
    return signal


def load_hepmass(train_path: Path, test_path: Path) -> Dataset:
    """The published splits; float32.

    Raises:
        DataError: a file is not what is expected.
    """
    fit, test = read_hepmass(train_path, _TRAIN_ROWS), read_hepmass(test_path, _TEST_ROWS)
    kept = without_repeats(fit)
    fit, test = fit[:, kept], test[:, kept]
    test, fit = (standardised(rows, fit, "hepmass", correction=1) for rows in (test, fit))
    return split_table("hepmass", fit, test, columns=[f"f{place}" for place in kept])


def _files(suffix: str, folders: tuple[str, ...]) -> Form:
    return tuple(KnownFile(f"1000_{split}.csv{suffix}", folders) for split in ("train", "test"))


FILES: Form = _files("", ("hepmass", f"{ARCHIVE}/hepmass", "."))
"""As the archive of Papamakarios et al. has them."""

COMPRESSED_FILES: Form = _files(".gz", ("hepmass", "."))
"""As UCI has them, all rows: set 347, archive.ics.uci.edu/dataset/347."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """HEPMASS: 21 columns, standardised; 315,123 train, 35,013 validation, 174,987 test."""
    return load_hepmass(*paths)


ENTRY = Entry(
    _load,
    "particle collisions (UCI set 347), 21 columns",
    "table",
    (FILES, COMPRESSED_FILES),
    shape=(315_123, 35_013, 174_987, 21),
    gaussian=-27.93,
)
