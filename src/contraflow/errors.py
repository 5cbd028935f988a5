"""The errors, and the one warning, a user can meet. Each message repeats the input and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHORT = 24


class ContraflowError(Exception):
    """Base of every error that contraflow raises on purpose; the command ends with exit code 2 on it."""


class ShapeError(ContraflowError, ValueError):
    """A tensor does not have the shape, the number of channels or the size that was asked for."""


class DomainError(ContraflowError, ValueError):
    """A value lies outside the set where the operation is defined: NaN, infinity, wrong dtype or range."""


class DataError(ContraflowError):
    """A data file is absent, empty, truncated, mislabelled or lacks a column."""


class ConfigurationError(ContraflowError, ValueError):
    """An unknown name or key, or a combination of settings that cannot work."""


class CheckpointError(ContraflowError):
    """A checkpoint is absent, corrupt, from a newer schema, or not one of ours."""


class OutputError(ContraflowError):
    """Something could not be written: the path exists, the disk is full, the folder is not writable."""


class InversionError(ContraflowError, RuntimeError):
    """A fixed-point inverse did not reach its tolerance.

    Attributes:
        block: the module whose inverse failed, or ``None``; `Flow` adds its name to the message.
    """

    block: object | None = None


class SolverError(ContraflowError, RuntimeError):
    """A solver of differential equations underflowed or used up its evaluations."""


class TrainingError(ContraflowError, RuntimeError):
    """Training cannot go on, for instance because the loss is NaN or infinite."""


class UninitialisedWarning(UserWarning):
    """A flow with ActNorm is used before its first batch, which will change its density and its samples."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, less the stack that torch may add below it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """An error for a name that is not in a table, with the nearest ones that are; a short table is shown whole."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    if len(known) <= _SHORT:
        return ConfigurationError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
    others = f" Also near: {', '.join(nearest[1:])}." if nearest[1:] else ""
    return ConfigurationError(f"unknown {kind} {name!r}.{hint}{others} It is none of {len(known)}.")
