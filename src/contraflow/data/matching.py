"""Data that meet a flow trained earlier: their columns are matched by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from contraflow.data.dataset import Dataset
from contraflow.data.formats.tables import Note, choose_columns, tell_match, untold
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
    note: Note = untold,
) -> Dataset:
    """A data set as `load_dataset` takes it, its columns those that a flow was trained on, in their order.

    Columns are matched by name, in files and in named sets alike. Where there are no names (an array, images), they
    are taken as they come. All rows of a file in their order are what `read_rows` gives in the same way.

    Args:
        name_or_path, root, seed: as `load_dataset`.
        columns: that the flow was trained on; ``None`` for a flow that knows no names.
        size, grey: for a folder of images; they say nothing about other data.
        note: told in one line which columns were left out, or that there were no names to go by.

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
    tell_match(data.name, data.event_shape, data.columns, columns, note)
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
