"""The rows to judge a run by: those of its own data, if these are still what it was trained on, or of other data."""

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
        data: name or path of their data set.
        split: train, validation or test, or ``all`` for a whole file.
        rows: ``(n, *event_shape)``.
        labels: int64 ``(n,)``, or ``None``.
    """

    data: str
    split: str
    rows: Tensor
    labels: Tensor | None


def check_unchanged(fingerprint: Fingerprint | None, data: Dataset, run: Path, remedy: str, note: Note) -> None:
    """Refuse data that are not those that a run was trained on: their test rows may be rows that it has learned.

    Args:
        fingerprint: of the run's data; ``None`` for runs from before there were any, which `note` is told.
        data: as they are now.
        run: its folder, for messages.
        remedy: what to do, a sentence.

    Raises:
        DataError: something has changed; the message says what.
    """
    if fingerprint is None:
        note(f"{run} has no fingerprint of its data: whether {data.name} has changed since cannot be checked.")
        return
    if change := fingerprint.change(Fingerprint.of(data)):
        raise DataError(f"{data.name} has changed since {run} was trained on it: {change}. {remedy}")


def load_own_data(trained: Run, note: Note) -> Dataset:
    """The data that a flow was trained on, split as they were then.

    Raises:
        DataError: they are absent, or no longer what they were.
    """
    data = load_data_for(trained.columns, trained.recipe.data, trained.recipe.seed, note)
    remedy = (
        "Its test rows may have been trained on now. Restore it, or score all its rows with "
        f"`contraflow evaluate {trained.folder} --data {data.name}`."
    )
    check_unchanged(trained.fingerprint, data, trained.folder, remedy, note)
    return data


def rows_to_judge(trained: Run, data: str | None, split: str | None, note: Note) -> JudgedRows:
    """A split of the run's own data, of a named set or of a file with its own splits, or all rows of another file.

    Args:
        trained: the run.
        data: name or path of other data; the run's own where ``None``.
        split: train, validation or test; of another file one that is drawn as for training, all rows where ``None``.
        note: told which rows are taken where that is not plain, and whether the run was trained on some of them.

    Raises:
        DataError: the run's own data have changed, or there are no such rows.
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
    pictures = len(shape) == 3 and path.is_dir()
    size, grey = (shape[1], shape[2]) if pictures else None, pictures and shape[0] == 1
    rows = read_rows(path, columns=trained.columns, size=size, grey=grey, note=note)
    if _has_all(trained, rows) and _is_own(
        trained, same := load_data_for(trained.columns, settings, trained.recipe.seed)
    ):
        note(f"{data} holds what {trained.folder} was trained on: only its test rows are scored.")
        return _of_split(trained, same, "test")
    note(f"all {len(rows):,} rows of {data} count as test rows.")
    return _compared(trained, _checked(trained, JudgedRows(data, "all", rows, None)), note)


def _is_own(trained: Run, data: Dataset) -> bool:
    """Whether data, split as they are, are those that a run was trained on."""
    return trained.fingerprint is not None and not trained.fingerprint.change(Fingerprint.of(data))


def _has_all(trained: Run, rows: Tensor) -> bool:
    """Whether rows are, all but surely, those that a run was split from, in whatever order."""
    found = trained.fingerprint
    return found is not None and len(rows) == sum(found.rows.values()) and found.share_among(rows) == 1


def _compared(trained: Run, judged: JudgedRows, note: Note) -> JudgedRows:
    """The rows, and a word where the run was trained on some of them."""
    if trained.fingerprint is None:
        note(f"{trained.folder} has no fingerprint of its data: whether it was trained on {judged.data} is not known.")
    elif share := trained.fingerprint.share_among(judged.rows):
        count = max(1, round(share * trained.fingerprint.rows["train"]))
        note(
            f"about {min(count, len(judged.rows)):,} of these {len(judged.rows):,} rows of {judged.data} are rows that "
            f"{trained.folder} was trained on: its score is better than that of unseen rows."
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
        raise DataError(f"{judged.data}: has no {judged.split} rows. Choose another --split.")
    return judged
