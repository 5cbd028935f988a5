"""Who is told how a run proceeds: the command's progress bar, or nobody."""

from __future__ import annotations

from typing import Any, Protocol


class Watcher(Protocol):
    """Is told how a run proceeds."""

    def step(self, record: dict[str, Any], steps: int) -> None:
        """A line of the training log, and the number of training steps in all."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Progress of scoring or sampling."""

    def note(self, text: str) -> None:
        """A line that the user should read."""


class Silent:
    """A watcher that says nothing."""

    def step(self, record: dict[str, Any], steps: int) -> None:
        """Ignored."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
