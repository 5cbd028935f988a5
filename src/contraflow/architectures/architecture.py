"""`Architecture`, a named flow with its settings, and checks of event shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contraflow.errors import ConfigurationError, ShapeError
from contraflow.flow import Flow


@dataclass(frozen=True)
class Architecture:
    """A named flow with the settings of a paper, or with smaller settings for CPUs.

    Args:
        build: a function that builds the flow for an event shape; keywords change its settings.
        event_shape: the default event shape.
        about: paper, year and purpose, for tables of architectures.
        small: event shape → keywords for a tiny flow, with one entry for every kind of event that `build` accepts.
        learning_rate: initial learning rate of short runs with a cosine schedule; ``None`` for that of the recipe.
        extra: the optional dependency that the flow needs.
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
    """D of an event shape ``(D,)``.

    Raises:
        ShapeError: events are not vectors.
    """
    if len(event_shape) != 1:
        raise ShapeError(f"a dense flow takes vectors, of event shape (D,), not {tuple(event_shape)}.")
    return int(event_shape[0])


def image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of an event shape ``(C, H, W)``.

    Raises:
        ShapeError: events are not images.
    """
    if len(event_shape) != 3:
        raise ShapeError(f"an image flow takes images, of event shape (C, H, W), not {tuple(event_shape)}.")
    channels, height, width = event_shape
    return int(channels), int(height), int(width)


def context_shape(context_features: int) -> tuple[int] | None:
    """The `context_shape` of a `Flow` whose context has this many features; ``None`` for 0.

    Raises:
        ConfigurationError: the number is negative.
    """
    if context_features < 0:
        raise ConfigurationError(f"context_features={context_features}: it cannot be negative.")
    return (context_features,) if context_features else None


def check_halvings(sides: tuple[int, int], halvings: int, levels: int) -> None:
    """Check that height and width of images are multiples of 2^halvings.

    Raises:
        ShapeError: they are not; the message asks for fewer levels.
    """
    height, width = sides
    if height % 2**halvings or width % 2**halvings:
        raise ShapeError(
            f"images of {height}×{width} cannot be halved {halvings} times; use fewer levels than {levels}."
        )
