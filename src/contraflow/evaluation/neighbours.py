"""The nearest rows of one set to those of another: has a flow learned its training data by heart?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.errors import ShapeError


@dataclass(frozen=True)
class Neighbours:
    """For every row its nearest one.

    Attributes:
        index: into the rows searched, ``(n,)``, long.
        distance: Euclidean, a dimension: ‖x - y‖₂ / √D, ``(n,)``, float64.
    """

    index: Tensor
    distance: Tensor


@torch.no_grad()
def nearest(rows: Tensor, among: Tensor, *, at_once: int = 5000) -> Neighbours:
    """The nearest of `among` to each of `rows`, by Euclidean distance between the numbers as they are.

    Args:
        rows: ``(n, *event_shape)``.
        among: ``(m, *event_shape)``, m >= 1.
        at_once: how many of `among` are compared at once.

    Raises:
        ShapeError: other shapes, or nothing to search.

    >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
    Neighbours(index=tensor([1, 0]), distance=tensor([1., 1.], dtype=torch.float64))
    """
    if rows.shape[1:] != among.shape[1:] or not len(among):
        raise ShapeError(f"rows of shape {tuple(rows.shape)} have no neighbours among {tuple(among.shape)}.")
    flat = rows.flatten(1).double()
    found = torch.full((len(rows),), math.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.long)
    for start in range(0, len(among), at_once):
        least, place = torch.cdist(flat, among[start : start + at_once].flatten(1).double()).min(dim=1)
        nearer = least < found
        found[nearer], index[nearer] = least[nearer], place[nearer] + start
    # cdist subtracts squares, and so loses the small distances that matter
    distance = (flat - among[index].flatten(1).double()).norm(dim=1)
    return Neighbours(index, distance / math.sqrt(flat.shape[1]))
