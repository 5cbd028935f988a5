"""What a named architecture is, and the shapes that its function takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contraflow.errors import ConfigurationError, ShapeError
from contraflow.flow import Flow


@dataclass(frozen=True)
class Architecture:
    """A named flow of a paper, or one sized down for CPUs.

    Args:
        build: makes the flow for an event shape; keywords edit it.
        event_shape: the shape that the name stands for.
        about: paper, year and what it is for.
        small: event shape → keywords that make a tiny flow of it, one for every kind of shape that `build` takes.
        learning_rate: of short runs under a cosine; ``None`` where it is the recipe's.
        extra: the optional dependency without which it cannot be built.
    """

    build: Callable[..., Flow]
    event_shape: tuple[int, ...]
    about: str
    small: Mapping[tuple[int, ...], Mapping[str, Any]] = field(default_factory=dict)
    learning_rate: float | None = None
    extra: str | None = None

    def __call__(self, event_shape: Sequence[int] | None = None, **changes: Any) -> Flow:
        return self.build(tuple(event_shape) if event_shape is not None else self.event_shape, **changes)


def vector_features(event_shape: Sequence[int]) -> int:
    """D of an event shape ``(D,)``."""
    if len(event_shape) != 1:
        raise ShapeError(f"a dense flow takes vectors, event shape (D,), not {tuple(event_shape)}.")
    return int(event_shape[0])


def image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of an event shape ``(C, H, W)``."""
    if len(event_shape) != 3:
        raise ShapeError(f"an image flow takes images, event shape (C, H, W), not {tuple(event_shape)}.")
    channels, height, width = event_shape
    return int(channels), int(height), int(width)


def context_shape(context_features: int) -> tuple[int] | None:
    """What `Flow` calls the shape of a context of so many features; ``None`` where there are none.

    Raises:
        ConfigurationError: a negative number.
    """
    if context_features < 0:
        raise ConfigurationError(f"context_features={context_features}: it cannot be negative.")
    return (context_features,) if context_features else None


def check_halvings(sides: tuple[int, int], halvings: int, levels: int) -> None:
    """Refuse images whose sides do not divide by 2^halvings.

    Raises:
        ShapeError: they do not; the message says that fewer than `levels` levels would do.
    """
    height, width = sides
    if height % 2**halvings or width % 2**halvings:
        raise ShapeError(
            f"images of {height}×{width} cannot be halved {halvings} times; use fewer levels than {levels}."
        )
