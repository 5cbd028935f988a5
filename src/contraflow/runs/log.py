"""The log of a run: RUN/log.jsonl, a line of JSON every few steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contraflow.files import append_line, write_text


class TrainingLog:
    """What training showed, step by step.

    Args:
        run: folder of the run; the log need not be there yet.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "log.jsonl"

    def records(self) -> list[dict[str, Any]]:
        """Its lines in order, each with its step; those that a kill has cut short are left out."""
        return [record for _, record in self._lines()]

    def append(self, record: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            OutputError: it could not be written.
        """
        append_line(self.path, record)

    def drop_after(self, step: int) -> None:
        """Keep the lines up to a step, as they stand.

        Raises:
            OutputError: it could not be written; the old log is intact.
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
