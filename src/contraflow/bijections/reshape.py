"""Maps that rearrange the elements of an event; their log-determinant is 0."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import DomainError, ShapeError


class Rearrangement(Bijection):
    """A map that only rearranges elements, and is therefore an isometry."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor: ...

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor: ...

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.forward(x), x.new_zeros(x.shape[0])

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z), z.new_zeros(z.shape[0])

    def inverse_lipschitz_bound(self) -> float:
        return 1.0

    def forward_lipschitz_bound(self) -> float:
        return 1.0


class Squeeze(Rearrangement):
    """``(C, H, W)`` → ``(4C, H/2, W/2)``: every 2×2 patch becomes four channels. Real NVP, section 3.6.

    >>> Squeeze()(torch.arange(4.0).reshape(1, 1, 2, 2)).shape
    torch.Size([1, 4, 1, 1])
    """

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ShapeError(f"squeeze takes images (batch, C, H, W) with even H and W, not {tuple(x.shape)}.")
        # torch's pixel_unshuffle does not change the shape of an empty batch.
        batch, channels, height, width = x.shape
        patches = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return patches.reshape(batch, 4 * channels, height // 2, width // 2)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        if z.ndim != 4 or z.shape[1] % 4:
            raise ShapeError(f"unsqueeze takes images with a multiple of 4 channels, not {tuple(z.shape)}.")
        batch, channels, height, width = z.shape
        patches = z.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return patches.reshape(batch, channels // 4, 2 * height, 2 * width)


class Flatten(Rearrangement):
    """Events of any shape → vectors.

    Args:
        event_shape: shape of one event.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ShapeError(f"Flatten({self.event_shape}) got events of shape {tuple(x.shape[1:])}.")
        return x.flatten(1)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return z.reshape(z.shape[0], *self.event_shape)

    def extra_repr(self) -> str:
        return str(self.event_shape)


class Permutation(Rearrangement):
    """z_i = x_{order[i]} along dimension 1 (features or channels).

    Args:
        order: a permutation of 0 … n-1.

    Raises:
        DomainError: `order` is not a permutation.
    """

    order: Tensor

    def __init__(self, order: Sequence[int] | Tensor) -> None:
        super().__init__()
        order = torch.as_tensor(order, dtype=torch.long)
        if order.ndim != 1 or not torch.equal(order.sort().values, torch.arange(len(order))):
            raise DomainError(f"{order.tolist()} is not a permutation of 0 … {order.numel() - 1}.")
        self.register_buffer("order", order)

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        if x.ndim < 2 or x.shape[1] != len(self.order):
            raise ShapeError(f"a permutation of {len(self.order)} channels got an input of shape {tuple(x.shape)}.")
        return x[:, self.order]

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return z[:, self.order.argsort()]
