"""Divide rows into train, validation and test."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from contraflow.errors import DataError

_FEWEST = 10


def split_rows(rows: int, seed: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of 80 % train, 10 % validation and 10 % test rows (the last two rounded down), shuffled by `seed`.

    Raises:
        DataError: fewer than ten rows.

    >>> [len(part) for part in split_rows(25, seed=0, name="example")]
    [21, 2, 2]
    """
    if rows < _FEWEST:
        raise DataError(f"{name}: {rows} rows; at least {_FEWEST} are needed to split off validation and test.")
    order = torch.randperm(rows, generator=Generator().manual_seed(seed))
    held = rows // 10
    return order[: rows - 2 * held], order[rows - 2 * held : rows - held], order[rows - held :]
