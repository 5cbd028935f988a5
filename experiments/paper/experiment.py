"""The definition of an experiment, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.paper.plan import Plan
from experiments.paper.setting import Setting


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Args:
        says: the claim, in our words.
        where: its table, figure or section; the title or arXiv number of another paper.
    """

    says: str
    where: str

    def __str__(self) -> str:
        return f"{self.says} ({self.where})"


@dataclass(frozen=True)
class Table:
    """A table in Markdown; the first cell of each row is its name."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __str__(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{self.caption}\n\n{text}" if self.caption else text

    def cell(self, row: str, column: str) -> str:
        """The cell in the row and the column of these names; "–" if there is no such row."""
        place = self.head.index(column)
        return next((cells[place] for cells in self.rows if cells[0] == row), "–")


@dataclass(frozen=True)
class Picture:
    """A picture in the folder of the page, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result:
    """The result of an experiment.

    Args:
        tables, pictures: in the order of the page.
        findings: sentences with numbers; the first one is also in the index.
        values: plain values for JSON.
        training_seconds: total time of the training steps of all runs; 0 if nothing was trained.
    """

    tables: Sequence[Table]
    findings: Sequence[str]
    pictures: Sequence[Picture] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    training_seconds: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """A table or figure that can be reproduced.

    Args:
        about: one line.
        claims: of the paper.
        reduced: a setting for a CPU.
        full: the paper's setting, for a GPU.
        run: trains missing runs, measures, draws.
        published: the paper's own tables.
    """

    about: str
    claims: Sequence[Claim]
    reduced: Setting
    full: Setting
    run: Callable[[Plan], Result]
    published: Sequence[Table] = ()
