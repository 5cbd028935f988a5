"""A two-dimensional distribution to draw from, with its density where that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ShapeError

_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class ToyDensity:
    """A distribution on the plane.

    Attributes:
        name: its name in `TOY_DENSITIES`.
        sample: ``sample(n, generator=None)``, n draws, float32 ``(n, 2)``.
        log_prob: ``log_prob(x)`` in nats, ``(n, 2)`` to ``(n,)``, computed in float64 and returned in the dtype of x;
            ``None`` where no accurate density is known.
        entropy: differential entropy in nats, where it is exact; else ``None``.
    """

    name: str
    sample: Callable[..., Tensor]
    log_prob: Callable[[Tensor], Tensor] | None = None
    entropy: float | None = None


def sampler(draw: Callable[[int, Generator | None], Tensor]) -> Callable[..., Tensor]:
    """A `draw` with its argument checked: n must be at least 1."""

    def sample(n: int, generator: Generator | None = None) -> Tensor:
        if n < 1:
            raise ShapeError(f"the number of draws must be at least 1, got {n}.")
        return draw(n, generator).to(torch.float32)

    sample.__doc__ = draw.__doc__
    return sample


def log_density(of_float64: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A density in float64 with its argument checked, evaluated a few hundred rows at a time to bound memory."""

    def log_prob(x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != 2 or not x.is_floating_point():
            raise ShapeError(f"expected floating-point points of shape (n, 2), got {x.dtype} {tuple(x.shape)}.")
        rows = [of_float64(chunk) for chunk in x.to(torch.float64).split(_ROWS_AT_ONCE)]
        return torch.cat(rows).to(x.dtype)

    log_prob.__doc__ = of_float64.__doc__
    return log_prob
