"""Output for people: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

#: Key of the training log → its name in the progress bar.
_SHOWN = {"bits_per_dim": "bits/dim", "nats": "nats", "accuracy": "accuracy", "matching_error": "matching error"}


def show(text: str, values: Any, as_json: bool) -> None:
    """Print a result: text for people, or JSON for programs."""
    print(json.dumps(values) if as_json else text)


class ProgressBar:
    """A progress bar on standard error, with the current loss while a flow trains.

    Use it as a context manager. Where standard error is not a terminal, it prints a line now and then instead.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[details]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.smooth: dict[str, float] = {}
        self.printed = -1

    @classmethod
    def named(cls, name: str) -> ProgressBar:
        """A bar, after a line with the name of what it shows."""
        bar = cls()
        bar.note(name)
        return bar

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, record: dict[str, Any], steps: int) -> None:
        """A line of the training log."""
        shown = [key for key in _SHOWN if key in record]
        for key in shown:
            self.smooth[key] = 0.9 * self.smooth.get(key, record[key]) + 0.1 * record[key]
        details = (
            f"{'  '.join(f'{_SHOWN[key]} {self.smooth[key]:.3f}' for key in shown)}  {record['seconds']:.2f} s/step  "
            f"|grad| {record['gradient_norm']:.2f}  Lip {record['lipschitz']:.3f}"
        )
        if validated := [f"{key} {record[f'validation {key}']:.3f}" for key in _SHOWN if f"validation {key}" in record]:
            self.note(f"step {record['step']}: validation {', '.join(validated)}")
        self._advance("training", record["step"], steps, details)

    def phase(self, name: str, done: int, total: int) -> None:
        """Progress of scoring or sampling."""
        self._advance(name, done, total, "")

    def note(self, text: str) -> None:
        """Print a line that the user should read."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _advance(self, name: str, done: int, total: int, details: str) -> None:
        if not self.console.is_terminal:
            twentieth = 20 * done // max(total, 1)
            if details and twentieth != self.printed:
                self.printed = twentieth
                print(f"{name} {done}/{total}  {details}", file=sys.stderr, flush=True)
            return
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(name, total=total, details=details)
        self.bar.update(self.tasks[name], completed=done, total=total, details=details)
