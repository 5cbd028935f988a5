"""What a named experiment of the paper is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.paper.plan import Plan
from experiments.paper.setting import Setting


@dataclass(frozen=True)
class Claim:
    """Something that the paper says.

    Args:
        says: in our words, with its figures.
        where: table, figure or section.
        source: where that was read; empty where it is from memory, which the page then says.
    """

    says: str
    where: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.says} ({self.where}; {self.source or 'from memory, not checked against the text'})"


@dataclass(frozen=True)
class Table:
    """A table in Markdown; the first column names what the row is about."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __str__(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{self.caption}\n\n{text}" if self.caption else text


@dataclass(frozen=True)
class Picture:
    """A picture that the experiment wrote beside its page, and what to look for in it."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Args:
        tables, pictures: in the order to show.
        findings: sentences with figures; the first one also stands in the index.
        values: plain values for JSON.
        training_seconds: of the runs' training steps; 0 where nothing was trained.
    """

    tables: Sequence[Table]
    findings: Sequence[str]
    pictures: Sequence[Picture] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    training_seconds: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """A table or figure of Chen et al. 2019 (arXiv:1906.02735).

    Args:
        about: one line.
        claims: what the paper says.
        reduced: what two CPU cores finish in under an hour.
        full: the paper's setting, for a GPU.
        run: trains what is missing, measures, draws.
    """

    about: str
    claims: Sequence[Claim]
    reduced: Setting
    full: Setting
    run: Callable[[Plan], Result]
