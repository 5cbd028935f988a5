"""Loads the rows to judge a run by: of its own data, if they have not changed since it was trained, or of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from contraflow.data import DATASETS, Dataset, Fingerprint, has_own_splits, read_rows
from contraflow.data.formats.tables import Note
from contraflow.errors import DataError, ShapeError
from contraflow.runs.build import Run, load_data_for


@dataclass(frozen=True)
class JudgedRows:
    """Rows that a run is judged by.

    Attributes:
        data: name or path of the data set.
        split: train, validation or test, or ``all`` for a whole file.
        rows: the rows, ``(n, *event_shape)``.
        labels: int64 ``(n,)``, or ``None``.
    """

    data: str
    split: str
    rows: Tensor
    labels: Tensor | None


def check_unchanged(fingerprint: Fingerprint | None, data: Dataset, run: Path, remedy: str, note: Note) -> None:
    """Refuse data that have changed since a run was trained on them: the run may have learned their test rows.

    Args:
        fingerprint: identifies the data of the run. With ``None``, of a run of an early version, `note` is told that
            the data cannot be checked.
        data: the data as they are now.
        run: the folder of the run, for messages.
        remedy: a sentence that says what to do.
        note: is told a line for the user.

    Raises:
        DataError: the data have changed; the message says what.
    """
    if fingerprint is None:
        note(f"{run} has no fingerprint of its data: it cannot be checked whether {data.name} has changed since.")
        return
    if change := fingerprint.change(Fingerprint.of(data)):
        raise DataError(f"{data.name} has changed since {run} was trained on it: {change}. {remedy}")


def load_own_data(trained: Run, note: Note) -> Dataset:
    """Load the data that a flow was trained on, with the same splits.

    Raises:
        DataError: the data are absent, or have changed since.
    """
    data = load_data_for(trained.columns, trained.recipe.data, trained.recipe.seed, note)
    remedy = (
        "The run may have been trained on rows that are test rows now. Restore the data, or score all rows with "
        f"`contraflow evaluate {trained.folder} --data {data.name}`."
    )
    check_unchanged(trained.fingerprint, data, trained.folder, remedy, note)
    return data


def rows_to_judge(trained: Run, data: str | None, split: str | None, note: Note) -> JudgedRows:
    """A split of the run's own data, of a named set or of a file with its own splits, or all rows of another file.

    Args:
        trained: the run.
        data: name or path of other data; ``None`` for the run's own.
        split: train, validation or test; by default test, and all rows of another file.
        note: is told which rows are taken where that is not obvious, and whether the run was trained on some of them.

    Raises:
        DataError: the run's own data have changed, or the split has no rows.
        ShapeError: other data have rows of another shape.
    """
    if data is None:
        return _of_split(trained, load_own_data(trained, note), split)
    path, shape = Path(data).expanduser(), trained.flow.event_shape
    settings = replace(trained.recipe.data, name=data, columns=None)
    if split is not None or data in DATASETS or not path.exists() or has_own_splits(path):
        other = load_data_for(trained.columns, settings, trained.recipe.seed, note)
        judged = _of_split(trained, other, split)
        return judged if _is_own(trained, other) else _compared(trained, judged, note)
    images = len(shape) == 3 and path.is_dir()
    size, grey = (shape[1], shape[2]) if images else None, images and shape[0] == 1
    rows = read_rows(path, columns=trained.columns, size=size, grey=grey, note=note)
    if _has_all(trained, rows) and _is_own(
        trained, own := load_data_for(trained.columns, settings, trained.recipe.seed)
    ):
        note(f"{data} holds the data that {trained.folder} was trained on: only its test rows are scored.")
        return _of_split(trained, own, "test")
    note(f"all {len(rows):,} rows of {data} count as test rows.")
    return _compared(trained, _checked(trained, JudgedRows(data, "all", rows, None)), note)


def _is_own(trained: Run, data: Dataset) -> bool:
    """Whether data with these splits are those that a run was trained on."""
    return trained.fingerprint is not None and not trained.fingerprint.change(Fingerprint.of(data))


def _has_all(trained: Run, rows: Tensor) -> bool:
    """Whether rows are, almost surely, all the data of a run before it was split, in any order."""
    fingerprint = trained.fingerprint
    if fingerprint is None or len(rows) != sum(fingerprint.rows.values()):
        return False
    return fingerprint.share_among(rows) == 1


def _compared(trained: Run, judged: JudgedRows, note: Note) -> JudgedRows:
    """The rows unchanged; `note` is told where the run was trained on some of them."""
    if trained.fingerprint is None:
        note(
            f"{trained.folder} has no fingerprint of its data: it is not known whether it was trained on {judged.data}."
        )
    elif share := trained.fingerprint.share_among(judged.rows):
        count = max(1, round(share * trained.fingerprint.rows["train"]))
        note(
            f"about {min(count, len(judged.rows)):,} of these {len(judged.rows):,} rows of {judged.data} are rows that "
            f"{trained.folder} was trained on: the score is better than on unseen rows."
        )
    return judged


def _of_split(trained: Run, data: Dataset, split: str | None) -> JudgedRows:
    split = split or "test"
    return _checked(trained, JudgedRows(data.name, split, getattr(data, split), getattr(data, f"{split}_labels")))


def _checked(trained: Run, judged: JudgedRows) -> JudgedRows:
    shape = tuple(judged.rows.shape[1:])
    if shape != trained.flow.event_shape:
        raise ShapeError(f"{trained.folder} takes data of shape {trained.flow.event_shape}; {judged.data} has {shape}.")
    if not len(judged.rows):
        raise DataError(f"{judged.data} has no {judged.split} rows. Choose another --split.")
    return judged
