"""Which numbers of an event a coupling layer keeps, and which it changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contraflow.errors import ShapeError


class Partition(nn.Module, ABC):
    """The two parts of an event.

    Attributes:
        seen: channels (or features) of what the conditioner is given.
        changed: channels (or features) that one parameter of the coupling has.
    """

    seen: int
    changed: int

    @abstractmethod
    def keep(self, x: Tensor) -> Tensor:
        """What the conditioner is given: the kept numbers of x, ``(batch, seen, …)``."""

    @abstractmethod
    def spread(self, parameter: Tensor) -> Tensor:
        """A parameter ``(batch, changed, …)`` in the shape of x, zero at the kept numbers."""


class ChannelPartition(Partition):
    """A partition of dimension 1: features of vectors, channels of images.

    Args:
        kept: numbers of the features that are kept.
        changed: numbers of the others.

    Raises:
        ShapeError: a part is empty, or the two are no partition of 0 … n-1.

    >>> halves(4).keep(torch.tensor([[0.0, 1, 2, 3]])).tolist()
    [[0.0, 1.0]]
    """

    kept_index: Tensor
    order: Tensor

    def __init__(self, kept: Sequence[int], changed: Sequence[int]) -> None:
        super().__init__()
        both = [*kept, *changed]
        if not kept or not changed or sorted(both) != list(range(len(both))):
            raise ShapeError(
                f"kept={list(kept)}, changed={list(changed)}: a coupling needs two parts, neither of them empty, that "
                f"together are the features 0 … {len(both) - 1}."
            )
        self.seen, self.changed = len(kept), len(changed)
        self.register_buffer("kept_index", torch.tensor(kept), persistent=False)
        back = sorted(range(len(both)), key=both.__getitem__)
        self.register_buffer("order", torch.tensor(back), persistent=False)

    def keep(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.seen + self.changed:
            raise ShapeError(f"a coupling of {self.seen + self.changed} features got an input of {tuple(x.shape)}.")
        return x[:, self.kept_index]

    def spread(self, parameter: Tensor) -> Tensor:
        zeros = parameter.new_zeros(parameter.shape[0], self.seen, *parameter.shape[2:])
        return torch.cat([zeros, parameter], dim=1)[:, self.order]


def halves(features: int, swap: bool = False) -> ChannelPartition:
    """The first half is kept, or the second where `swap`; the first is the larger one of an odd number."""
    return _of_two(range((features + 1) // 2), range((features + 1) // 2, features), swap)


def alternate(features: int, swap: bool = False) -> ChannelPartition:
    """Features 0, 2, 4, … are kept, or the others where `swap`."""
    return _of_two(range(0, features, 2), range(1, features, 2), swap)


def _of_two(first: Sequence[int], second: Sequence[int], swap: bool) -> ChannelPartition:
    return ChannelPartition(second, first) if swap else ChannelPartition(first, second)


class Checkerboard(Partition):
    """Pixels of one colour of a chessboard are kept; the conditioner sees the image with zeros at the others.

    Dinh et al., Real NVP, 2017 (arXiv:1605.08803), section 3.4.

    Args:
        event_shape: ``(C, H, W)``.
        swap: keep the other colour; otherwise pixel (0, 0) is changed and (0, 1) is kept.
    """

    mask: Tensor

    def __init__(self, event_shape: Sequence[int], swap: bool = False) -> None:
        super().__init__()
        channels, height, width = event_shape
        if height * width < 2:
            raise ShapeError(f"a checkerboard needs two pixels, and images of {tuple(event_shape)} have one.")
        self.seen = self.changed = channels
        kept = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == int(not swap)
        self.register_buffer("mask", kept, persistent=False)

    def keep(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or (x.shape[1], *x.shape[2:]) != (self.seen, *self.mask.shape):
            raise ShapeError(
                f"a checkerboard coupling of images {(self.seen, *self.mask.shape)} got an input of {tuple(x.shape)}."
            )
        return x * self.mask

    def spread(self, parameter: Tensor) -> Tensor:
        return parameter * ~self.mask
