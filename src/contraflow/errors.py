"""The errors and the warning that contraflow issues. Each message repeats the invalid input and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHORT = 24


class ContraflowError(Exception):
    """Base class of all errors that contraflow raises; the command exits with code 2 on any of them."""


class ShapeError(ContraflowError, ValueError):
    """A tensor has the wrong shape, number of channels or size."""


class DomainError(ContraflowError, ValueError):
    """A value lies outside the domain of an operation: NaN, infinity, wrong dtype or range."""


class DataError(ContraflowError):
    """A data file is missing, empty, truncated or mislabelled, or lacks a column."""


class ConfigurationError(ContraflowError, ValueError):
    """An unknown name or key, or a combination of settings that cannot work."""


class CheckpointError(ContraflowError):
    """A checkpoint is missing, corrupt, of a newer schema, or not written by contraflow."""


class OutputError(ContraflowError):
    """Output could not be written: the path exists, the disk is full, or the folder is not writable."""


class InversionError(ContraflowError, RuntimeError):
    """A fixed-point inverse did not reach its tolerance.

    Attributes:
        block: the module whose inverse failed, or ``None``; `Flow` adds the name of the module to the message.
    """

    block: object | None = None


class SolverError(ContraflowError, RuntimeError):
    """A solver of differential equations reached its smallest step or its largest number of evaluations."""


class TrainingError(ContraflowError, RuntimeError):
    """Training cannot continue, for instance because the loss is NaN or infinite."""


class UninitialisedWarning(UserWarning):
    """A flow with ActNorm is used before its first training batch, which will change its density and its samples."""


def first_line(error: BaseException) -> str:
    """The first line of an error message of another library, without the stack trace that torch may append."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """An error for an unknown name, with the most similar known names, or with all of them if they are few."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    if len(known) <= _SHORT:
        return ConfigurationError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
    others = f" Also similar: {', '.join(nearest[1:])}." if nearest[1:] else ""
    return ConfigurationError(f"unknown {kind} {name!r}.{hint}{others} There are {len(known)} known names.")
