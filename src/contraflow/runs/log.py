"""The log of a run: RUN/log.jsonl, a line of JSON every few steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contraflow.files import append_line, write_text


class TrainingLog:
    """The record of training, one line of JSON every few steps.

    Args:
        run: the folder of the run; the log need not exist yet.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "log.jsonl"

    def records(self) -> list[dict[str, Any]]:
        """The lines in order, each with its step; a line that a kill has cut short is left out."""
        return [record for _, record in self._lines()]

    def append(self, record: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            OutputError: the log cannot be written.
        """
        append_line(self.path, record)

    def drop_after(self, step: int) -> None:
        """Keep only the lines up to a step, unchanged.

        Raises:
            OutputError: the log cannot be written; the old log is intact.
        """
        write_text(self.path, "".join(f"{line}\n" for line, record in self._lines() if record["step"] <= step))

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield line, record
