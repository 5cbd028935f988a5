"""Entries of the table of named data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contraflow.data.dataset import Dataset
from contraflow.data.known_files import Form
from contraflow.errors import DataError

Loader = Callable[[Sequence[Path], int], Dataset]
"""From the files of one form, and a seed, to the data; only drawn sets depend on the seed."""


@dataclass(frozen=True)
class Entry:
    """One line of the table of data sets.

    Attributes:
        load: from the files of one form, and a seed, to the data.
        description: one line for the list of data sets.
        kind: ``image``, ``table`` or ``2-D``.
        forms: complete sets of files, any one of which is enough, best first; none where no file is needed.
        shape: published numbers of train, validation and test rows and of columns; None where they are not checked.
        gaussian: published nats a test row of a Gaussian with full covariance, which tells the prepared data from
            others; None where none is published.
    """

    load: Loader
    description: str
    kind: str
    forms: tuple[Form, ...] = ()
    shape: tuple[int, int, int, int] | None = None
    gaussian: float | None = None

    def read(self, paths: Sequence[Path], seed: int) -> Dataset:
        """The data in the files of one form.

        Raises:
            DataError: the files are broken, or hold other numbers of rows or columns than the published task has.
        """
        data = self.load(paths, seed)
        shape = (len(data.train), len(data.validation), len(data.test), *data.event_shape)
        if self.shape not in (None, shape):
            raise DataError(
                f"data set {data.name!r}: {_shape(shape)}, expected {_shape(self.shape)}. "
                f"{', '.join(map(str, paths))}: not the whole published data. Download and unpack them again."
            )
        return data

    @property
    def fetchable(self) -> Form | None:
        """The first form whose files all have official addresses, or ``None``."""
        return next((form for form in self.forms if all(file.addresses for file in form)), None)


def _shape(shape: tuple[int, ...]) -> str:
    train, validation, test, columns = shape
    return f"{train:,} train, {validation:,} validation and {test:,} test rows of {columns} columns"
