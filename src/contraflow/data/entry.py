"""What the table of named data sets says of one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contraflow.data.dataset import Dataset
from contraflow.data.known_files import Form

Loader = Callable[[Sequence[Path], int], Dataset]
"""From the files of one form, and a seed, to the data; only drawn sets depend on the seed."""


@dataclass(frozen=True)
class Entry:
    """One line of the table of data sets.

    Attributes:
        load: from the files of one form, and a seed, to the data.
        description: one line for people.
        kind: ``image``, ``table`` or ``2-D``.
        forms: complete sets of files, any one of which is enough, best first; none where no file is needed.
    """

    load: Loader
    description: str
    kind: str
    forms: tuple[Form, ...] = ()

    @property
    def fetchable(self) -> Form | None:
        """The first form whose files all have official addresses, or ``None``."""
        return next((form for form in self.forms if all(file.addresses for file in form)), None)
