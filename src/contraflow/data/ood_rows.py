"""Rows of other data for out-of-distribution tests, brought to the shape and levels that a flow takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from contraflow.data.formats.tables import Note, no_note
from contraflow.data.matching import load_matching
from contraflow.errors import ShapeError

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601."""


@dataclass(frozen=True)
class OtherRows:
    """Some rows of another data set.

    Attributes:
        name: of the data set, as the caller gave it.
        rows: ``(n, *event_shape)``.
        change: how the rows were changed to fit, in words; empty where they were not.
    """

    name: str
    rows: Tensor
    change: str = ""


def noise_images(n: int, event_shape: Sequence[int], levels: int, generator: Generator | None = None) -> Tensor:
    """Every pixel uniform over the levels, uint8 ``(n, C, H, W)``."""
    return torch.randint(levels, (n, *event_shape), generator=generator).to(torch.uint8)


def constant_images(n: int, event_shape: Sequence[int], levels: int, generator: Generator | None = None) -> Tensor:
    """Images in which every pixel has the same level, from the lowest level to the highest, uint8 ``(n, C, H, W)``."""
    steps = torch.linspace(0, levels - 1, n).round().to(torch.uint8)
    return steps[:, None, None, None].expand(n, *event_shape).clone()


def black_images(n: int, event_shape: Sequence[int], levels: int, generator: Generator | None = None) -> Tensor:
    """Every pixel at the lowest level, uint8 ``(n, C, H, W)``: flows often give such images a high likelihood."""
    return torch.zeros((n, *event_shape), dtype=torch.uint8)


#: Images that are drawn: name → function of a number, a shape (C, H, W), levels and a generator.
DRAWN_IMAGES: dict[str, Callable[[int, Sequence[int], int, Generator | None], Tensor]] = {
    "noise": noise_images,
    "constant": constant_images,
    "black": black_images,
}


def load_other_rows(
    name: str,
    event_shape: Sequence[int],
    levels: int | None,
    limit: int,
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Sequence[str] | None = None,
    generator: Generator | None = None,
    note: Note = no_note,
) -> OtherRows:
    """Test rows of another data set, or drawn images.

    Args:
        name: a name in `DRAWN_IMAGES`, a named data set, or a path.
        event_shape: wanted shape of a row.
        levels: wanted levels of images; ``None`` for tables.
        limit: most rows; of a larger set they are drawn without replacement.
        root: folder of the named data sets.
        columns: of a table, matched by name as `load_matching` does.
        generator: of the draws.
        note: called with one line on the columns, where their names leave a doubt.

    Raises:
        ConfigurationError, DataError: as `load_matching`.
        ShapeError: images for a flow of tables or the other way, or a table of another width.

    >>> load_other_rows("digits", (1, 28, 28), 256, 5).change
    '8×8 enlarged to 28×28, 17 levels stretched to 256'
    """
    if name in DRAWN_IMAGES and levels is not None:
        return OtherRows(name, DRAWN_IMAGES[name](limit, event_shape, levels, generator))
    data = load_matching(name, columns, root=root, note=note)
    rows = draw_rows(data.test, limit, generator)
    if data.levels is None or levels is None:
        if tuple(rows.shape[1:]) != tuple(event_shape):
            raise ShapeError(f"{name}: rows of shape {tuple(rows.shape[1:])}, expected {tuple(event_shape)}.")
        return OtherRows(name, rows)
    return OtherRows(name, *fit_images(rows, data.levels, event_shape, levels))


def draw_rows(rows: Tensor, limit: int, generator: Generator | None = None) -> Tensor:
    """At most so many rows, without replacement, in random order; published sets may be sorted by difficulty."""
    return rows[torch.randperm(len(rows), generator=generator)[:limit]]


def fit_images(images: Tensor, levels: int, event_shape: Sequence[int], new_levels: int) -> tuple[Tensor, str]:
    """The images in another shape and number of levels, uint8, and a description of the changes.

    Grey is repeated over channels, colour becomes its luma (BT.601), sides are resized bilinearly (with antialiasing
    where they shrink), levels stretched. Enlarged images are smoother than images of that size usually are, which
    affects any score.

    Args:
        images: uint8 ``(n, C, H, W)``.
        levels: integer levels of the images.
        event_shape: wanted ``(C, H, W)``.
        new_levels: wanted levels.

    Raises:
        ShapeError: channels that are neither equal, nor 1 and 3.
    """
    channels, *sides = event_shape
    given, *old = images.shape[1:]
    changes, values = [], images.double()
    if (given, channels) == (3, 1):
        values = (values * torch.tensor(_LUMA, dtype=values.dtype)[:, None, None]).sum(dim=1, keepdim=True)
        changes.append("colour made grey")
    elif (given, channels) == (1, 3):
        values = values.expand(-1, 3, -1, -1)
        changes.append("grey repeated over three channels")
    elif given != channels:
        raise ShapeError(f"images of {given} channels cannot be brought to {channels}.")
    if old != sides:
        values = F.interpolate(values, size=tuple(sides), mode="bilinear", align_corners=False, antialias=True)
        verb = "enlarged" if sides[0] * sides[1] > old[0] * old[1] else "reduced"
        changes.append(f"{old[0]}×{old[1]} {verb} to {sides[0]}×{sides[1]}")
    if levels != new_levels:
        values = values * (new_levels - 1) / (levels - 1)
        verb = "stretched" if new_levels > levels else "reduced"
        changes.append(f"{levels} levels {verb} to {new_levels}")
    return values.round().clamp(0, new_levels - 1).to(torch.uint8), ", ".join(changes)
