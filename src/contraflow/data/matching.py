"""Data for a flow that is already trained: columns are matched by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from contraflow.data.dataset import Dataset
from contraflow.data.formats.tables import Note, choose_columns, no_note, note_columns
from contraflow.data.path_dataset import is_folder, load_path
from contraflow.data.registry import load_dataset, own_path


def load_matching(
    name_or_path: str | os.PathLike[str],
    columns: Sequence[str] | None,
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    size: int | None = None,
    grey: bool = False,
    note: Note = no_note,
) -> Dataset:
    """The data set that `load_dataset` reads, with the columns that a flow was trained on, in its order.

    Columns are matched by name, in files and in named sets alike. Where there are no names (an array, images), the
    columns keep their order. `read_rows` reads all rows of a file, unsplit, with the same matching.

    Args:
        name_or_path, root, seed: as `load_dataset`.
        columns: those that the flow was trained on; ``None`` for a flow without names of columns.
        size, grey: for a folder of images; ignored for other data.
        note: called with one line on which columns were left out, or that the file has no names to match.

    Raises:
        ConfigurationError, DataError: as `load_dataset`; a column is missing.
    """
    if path := own_path(name_or_path):
        folder = is_folder(path)
        return load_path(
            path, seed=seed, columns=columns, size=size if folder else None, grey=grey and folder, note=note
        )
    data = load_dataset(name_or_path, root=root, seed=seed)
    if columns is None:
        return data
    note_columns(data.name, data.event_shape, data.columns, columns, note)
    if data.columns is None or data.columns == tuple(columns):
        return data
    chosen = choose_columns(data.name, data.columns, columns)
    places = [data.columns.index(name) for name in chosen]
    return replace(
        data,
        train=data.train[:, places],
        validation=data.validation[:, places],
        test=data.test[:, places],
        columns=chosen,
        density=None,
    )
