"""Partitions of an event into the elements that a coupling layer keeps and those that it changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contraflow.errors import ShapeError


class Partition(nn.Module, ABC):
    """A partition of an event into kept and changed elements.

    Attributes:
        seen: number of channels (or features) of the conditioner's input.
        changed: number of channels (or features) of each parameter of the coupling, its shift or its log-scale.
    """

    seen: int
    changed: int

    @abstractmethod
    def keep(self, x: Tensor) -> Tensor:
        """The conditioner's input, made of the kept elements of x: ``(batch, seen, …)``."""

    @abstractmethod
    def spread(self, parameter: Tensor) -> Tensor:
        """A parameter ``(batch, changed, …)`` expanded to the shape of x, with zeros at the kept elements."""


class ChannelPartition(Partition):
    """A partition of dimension 1: of the features of vectors, or of the channels of images.

    Args:
        kept: indices of the features that are kept.
        changed: indices of the features that are changed.

    Raises:
        ShapeError: a part is empty, or the two together are not 0 … n-1.

    >>> halves(4).keep(torch.tensor([[0.0, 1, 2, 3]])).tolist()
    [[0.0, 1.0]]
    """

    kept_index: Tensor
    order: Tensor

    def __init__(self, kept: Sequence[int], changed: Sequence[int]) -> None:
        super().__init__()
        indices = [*kept, *changed]
        if not kept or not changed or sorted(indices) != list(range(len(indices))):
            raise ShapeError(
                f"kept={list(kept)}, changed={list(changed)}: a coupling needs two parts, neither of them empty, that "
                f"together are the features 0 … {len(indices) - 1}."
            )
        self.seen, self.changed = len(kept), len(changed)
        self.register_buffer("kept_index", torch.tensor(kept), persistent=False)
        order = sorted(range(len(indices)), key=indices.__getitem__)
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def keep(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.seen + self.changed:
            raise ShapeError(
                f"a coupling of {self.seen + self.changed} features got an input of shape {tuple(x.shape)}."
            )
        return x[:, self.kept_index]

    def spread(self, parameter: Tensor) -> Tensor:
        zeros = parameter.new_zeros(parameter.shape[0], self.seen, *parameter.shape[2:])
        return torch.cat([zeros, parameter], dim=1)[:, self.order]


def halves(features: int, swap: bool = False) -> ChannelPartition:
    """Keep the first half of the features, or the second if `swap`; of an odd number the first half is the larger."""
    return _kept_first(range((features + 1) // 2), range((features + 1) // 2, features), swap)


def alternate(features: int, swap: bool = False) -> ChannelPartition:
    """Keep the features 0, 2, 4, …, or the others if `swap`."""
    return _kept_first(range(0, features, 2), range(1, features, 2), swap)


def _kept_first(first: Sequence[int], second: Sequence[int], swap: bool) -> ChannelPartition:
    return ChannelPartition(second, first) if swap else ChannelPartition(first, second)


class Checkerboard(Partition):
    """A partition of pixels as on a chessboard; the conditioner's input is the image with zeros at the changed pixels.

    Dinh et al., Real NVP, 2017 (arXiv:1605.08803), section 3.4.

    Args:
        event_shape: ``(C, H, W)``.
        swap: keep pixel (0, 0) and change (0, 1); by default it is the other way round.

    Raises:
        ShapeError: an image has a single pixel, or x has another shape.
    """

    mask: Tensor

    def __init__(self, event_shape: Sequence[int], swap: bool = False) -> None:
        super().__init__()
        channels, height, width = event_shape
        if height * width < 2:
            raise ShapeError(f"a checkerboard needs two pixels or more; images of shape {tuple(event_shape)} have one.")
        self.seen = self.changed = channels
        kept = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == int(not swap)
        self.register_buffer("mask", kept, persistent=False)

    def keep(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or (x.shape[1], *x.shape[2:]) != (self.seen, *self.mask.shape):
            raise ShapeError(
                f"a checkerboard coupling of images {(self.seen, *self.mask.shape)} got an input of shape "
                f"{tuple(x.shape)}."
            )
        return x * self.mask

    def spread(self, parameter: Tensor) -> Tensor:
        return parameter * ~self.mask
