"""The levels of an image flow, whatever its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from contraflow.architectures.architecture import check_halvings, image_shape
from contraflow.bijections import ActNorm, Bijection, Chain, Flatten, Inverse, MultiScale, Squeeze
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow

#: (channels, (height, width), whether it is the very first block) → block.
MakeConv = Callable[[int, tuple[int, int], bool], Bijection]


def residual_levels(
    event_shape: Sequence[int],
    conv: MakeConv,
    dense: Callable[[int], Bijection],
    *,
    blocks: Sequence[int],
    dense_blocks: int,
    squeeze_first: bool = False,
    factor_out: bool = False,
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """Levels of blocks with a squeeze between them; ActNorm before the first block and after every one.

    Args:
        event_shape: ``(C, H, W)``.
        conv, dense: make the block of an image and of a vector with so many features.
        blocks: blocks of each level.
        dense_blocks: blocks on the flattened image at the end.
        squeeze_first: squeeze before the first level.
        factor_out: after every level but the last, half of the channels leave for the latent vector.
        actnorm: whether to use ActNorm.
        preprocessing: as for `Flow`.

    Raises:
        ShapeError: the image cannot be halved as often as there are levels.
    """
    channels, height, width = image_shape(event_shape)
    check_halvings((height, width), len(blocks) - 1 + squeeze_first, len(blocks))
    start: list[Bijection] = []
    if squeeze_first:
        start.append(Squeeze())
        channels, height, width = channels * 4, height // 2, width // 2
    if actnorm:
        start.append(ActNorm(channels))
    levels: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for level, count in enumerate(blocks):
        chain = start if level == 0 else []
        for index in range(count):
            chain.append(conv(channels, (height, width), level == index == 0))
            if actnorm:
                chain.append(ActNorm(channels))
        if level < len(blocks) - 1:
            chain.append(Squeeze())
            channels, height, width = channels * 4, height // 2, width // 2
        else:
            chain += _dense_end((channels, height, width), dense_blocks, dense, actnorm)
        levels.append(Chain(chain))
        shapes.append((channels, height, width))
        if factor_out:
            channels //= 2
    body = MultiScale(levels, shapes) if factor_out else Chain([*levels, Flatten(shapes[-1])])
    base = StandardNormal((math.prod(event_shape),))
    return Flow(event_shape, body, base, preprocessing)


def _dense_end(
    shape: tuple[int, int, int], count: int, dense: Callable[[int], Bijection], actnorm: bool
) -> list[Bijection]:
    """Fully connected blocks on the flattened image, and back to the image's shape."""
    if not count:
        return []
    features = math.prod(shape)
    chain: list[Bijection] = [Flatten(shape)]
    for _ in range(count):
        chain.append(dense(features))
        if actnorm:
            chain.append(ActNorm(features))
    return [*chain, Inverse(Flatten(shape))]
