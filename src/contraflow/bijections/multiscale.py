"""The multi-scale architecture: half of the channels are factored out after every level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ShapeError


class MultiScale(Bijection):
    r"""Levels f_1 … f_L; after each but the last, the second half of the channels becomes part of the latent vector.

    h_0 = x;  (h_l, y_l) = split(f_l(h_{l-1}));  z = (y_1, …, y_{L-1}, f_L(h_{L-1})), flattened to ``(batch, D)``.

    Dinh et al., Real NVP, 2017 (arXiv:1605.08803), section 3.6.

    Args:
        levels: f_1 … f_L.
        shapes: event shape of each f_l's output.
    """

    def __init__(self, levels: Sequence[Bijection], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if len(levels) != len(shapes) or not levels:
            raise ShapeError(f"{len(levels)} levels and {len(shapes)} shapes: every level needs one shape.")
        for shape in shapes[:-1]:
            if shape[0] % 2:
                raise ShapeError(f"a level ends with {shape[0]} channels, which must be even to be split into halves.")
        self.levels = nn.ModuleList(levels)
        self.shapes = [tuple(shape) for shape in shapes]
        halves = [(shape[0] // 2, *shape[1:]) for shape in self.shapes[:-1]]
        self.latent_shapes = [*halves, self.shapes[-1]]

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        latents = []
        for level in self.levels[:-1]:
            x, logdet = level.forward_and_logdet(x, context, generator=generator)  # type: ignore[operator]
            total = total + logdet
            x, latent = x.chunk(2, dim=1)
            latents.append(latent.flatten(1))
        x, logdet = self.levels[-1].forward_and_logdet(x, context, generator=generator)  # type: ignore[operator]
        return torch.cat([*latents, x.flatten(1)], dim=1), total + logdet

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        latents = []
        for level in self.levels[:-1]:
            x, latent = level(x, context, generator=generator).chunk(2, dim=1)
            latents.append(latent.flatten(1))
        x = self.levels[-1](x, context, generator=generator)
        return torch.cat([*latents, x.flatten(1)], dim=1)

    def _split(self, z: Tensor) -> list[Tensor]:
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        if z.ndim != 2 or z.shape[1] != sum(sizes):
            raise ShapeError(f"the latent vector has shape (batch, {sum(sizes)}), not {tuple(z.shape)}.")
        latents = z.split(sizes, dim=1)
        return [latent.reshape(-1, *shape) for latent, shape in zip(latents, self.latent_shapes, strict=True)]

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        *latents, last = self._split(z)
        x, total = self.levels[-1].inverse_and_logdet(last, context, generator=generator)  # type: ignore[operator]
        for level, latent in zip(reversed(self.levels[:-1]), reversed(latents), strict=True):
            joined = torch.cat([x, latent], dim=1)
            x, logdet = level.inverse_and_logdet(joined, context, generator=generator)  # type: ignore[operator]
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        *latents, last = self._split(z)
        x = self.levels[-1].inverse(last, context, generator=generator)  # type: ignore[operator]
        for level, latent in zip(reversed(self.levels[:-1]), reversed(latents), strict=True):
            x = level.inverse(torch.cat([x, latent], dim=1), context, generator=generator)  # type: ignore[operator]
        return x
