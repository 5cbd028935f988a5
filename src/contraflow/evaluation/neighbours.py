"""Nearest neighbours, which show whether a flow has memorised its training data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.errors import ShapeError


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbour of each row.

    Attributes:
        index: of the neighbour among the rows searched, ``(n,)``, long.
        distance: root mean square difference ‖x - y‖₂ / √D, ``(n,)``, float64.
    """

    index: Tensor
    distance: Tensor


@torch.no_grad()
def nearest(rows: Tensor, among: Tensor, *, at_once: int = 5000) -> Neighbours:
    """The row of `among` that is nearest to each of `rows`, by Euclidean distance.

    Args:
        rows: ``(n, *event_shape)``.
        among: ``(m, *event_shape)``, m >= 1.
        at_once: number of rows of `among` that are compared at once.

    Raises:
        ShapeError: the event shapes differ, or `among` is empty.

    >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
    Neighbours(index=tensor([1, 0]), distance=tensor([1., 1.], dtype=torch.float64))
    """
    if rows.shape[1:] != among.shape[1:] or not len(among):
        raise ShapeError(
            f"rows of shape {tuple(rows.shape)} have no neighbours among rows of shape {tuple(among.shape)}: expected "
            "equal event shapes and at least one row to search."
        )
    flat = rows.flatten(1).double()
    nearest_distance = torch.full((len(rows),), math.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.long)
    for start in range(0, len(among), at_once):
        distance, place = torch.cdist(flat, among[start : start + at_once].flatten(1).double()).min(dim=1)
        nearer = distance < nearest_distance
        nearest_distance[nearer], index[nearer] = distance[nearer], place[nearer] + start
    # Computed again: cdist subtracts squares, which loses small distances, the ones that matter here.
    distance = (flat - among[index].flatten(1).double()).norm(dim=1)
    return Neighbours(index, distance / math.sqrt(flat.shape[1]))
