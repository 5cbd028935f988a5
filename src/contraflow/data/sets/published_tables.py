"""What the tables of Papamakarios et al. have in common: splits by position, and columns that repeat a value.

G. Papamakarios, T. Pavlakou, I. Murray, "Masked autoregressive flow for density estimation", 2017 (arXiv:1705.07057),
whose archive of the prepared files is at doi.org/10.5281/zenodo.1161203. Test scores are nats a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.errors import DataError

#: The folder that the archive of all five sets unpacks to.
ARCHIVE = "data"
#: Most occurrences of the smallest value of a column that is kept.
_MOST_REPEATS = 5


def tenth(rows: int) -> int:
    """A tenth of so many rows, rounded down."""
    return rows // 10


def split_table(
    name: str, rows: np.ndarray, test: np.ndarray | None = None, columns: Sequence[str] | None = None
) -> Dataset:
    """The last tenth as test rows, unless they are given, and the last tenth of the others for validation; float32.

    Raises:
        DataError: too few rows for a tenth, or a value that float32 does not hold.
    """
    fit = rows if test is not None else rows[: len(rows) - tenth(len(rows))]
    test = test if test is not None else rows[len(fit) :]
    train = len(fit) - tenth(len(fit))
    names = None if columns is None else tuple(columns)
    return Dataset(name, single(fit[:train]), single(fit[train:]), single(test), columns=names)


def single(rows: np.ndarray) -> Tensor:
    """The rows as a float32 tensor."""
    return torch.from_numpy(rows.astype(np.float32))


def standardised(rows: np.ndarray, fit: np.ndarray, name: str, *, correction: int = 0) -> np.ndarray:
    """(rows - mean) / standard deviation, column by column, with the moments of the rows `fit`.

    Args:
        rows: ``(n, D)``.
        fit: ``(m, D)``.
        name: of the data set, for messages.
        correction: 1 for a standard deviation with m - 1 in its denominator, as pandas has it.

    Raises:
        DataError: a column is constant in `fit`.
    """
    deviation = fit.std(axis=0, ddof=correction) if len(fit) > correction else np.zeros(fit.shape[1])
    if constant := np.flatnonzero(~(deviation > 0)).tolist():
        raise DataError(f"{name}: column {constant[0] + 1} is constant in {len(fit)} rows. Is it the whole file?")
    return (rows - fit.mean(axis=0)) / deviation


def without_repeats(rows: np.ndarray) -> np.ndarray:
    """Places of the columns whose smallest value occurs at most five times: others have mass there and no density."""
    return np.flatnonzero((rows == rows.min(axis=0)).sum(axis=0) <= _MOST_REPEATS)


def require_width(rows: np.ndarray, width: int, source: object) -> np.ndarray:
    """The rows, where they are ``(n, width)`` finite numbers.

    Raises:
        DataError: they are not.
    """
    if rows.ndim != 2 or rows.shape[1] != width or rows.dtype.kind not in "fiu" or not len(rows):
        raise DataError(f"{source}: expected numbers of shape (n, {width}), got {rows.dtype} {rows.shape}.")
    if not bool(np.isfinite(rows).all()):
        row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
        raise DataError(f"{source}: row {row}, column {column + 1} is {rows[row, column]}, not a finite number.")
    return rows
