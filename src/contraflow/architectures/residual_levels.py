"""The structure of residual flows, for any kind of block: a chain for vectors, levels for images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from contraflow.architectures.architecture import check_halvings, image_shape, vector_features
from contraflow.bijections import ActNorm, Bijection, Chain, Flatten, Inverse, MultiScale, Squeeze
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow

#: (channels, (height, width), whether it is the first block of the flow) → block.
MakeConv = Callable[[int, tuple[int, int], bool], Bijection]


def residual_chain(
    event_shape: Sequence[int],
    dense: Callable[[int], Bijection],
    *,
    blocks: int,
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A flow of blocks for vectors, with an ActNorm before the first and after every block.

    Args:
        event_shape: ``(D,)``.
        dense: function that builds a block for vectors of a given number of features.
        blocks: number of blocks.
        actnorm: whether to use ActNorm.
        preprocessing: as for `Flow`.

    Raises:
        ShapeError: events are not vectors.
    """
    features = vector_features(event_shape)
    chain: list[Bijection] = [ActNorm(features)] if actnorm else []
    for _ in range(blocks):
        chain.append(dense(features))
        if actnorm:
            chain.append(ActNorm(features))
    return Flow(event_shape, Chain(chain), preprocessing=preprocessing)


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
    """A flow of levels of blocks with squeezes between them, and an ActNorm before the first and after every block.

    Args:
        event_shape: ``(C, H, W)``.
        conv, dense: functions that build a block for images, and for vectors of a given number of features.
        blocks: number of blocks in each level.
        dense_blocks: number of blocks on the flattened image at the end.
        squeeze_first: whether there is a squeeze before the first level.
        factor_out: whether half of the channels are factored out after every level but the last.
        actnorm: whether to use ActNorm.
        preprocessing: as for `Flow`.

    Raises:
        ShapeError: images cannot be halved as often as there are levels.
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
    """Blocks on the flattened image, between a flattening and its inverse."""
    if not count:
        return []
    features = math.prod(shape)
    chain: list[Bijection] = [Flatten(shape)]
    for _ in range(count):
        chain.append(dense(features))
        if actnorm:
            chain.append(ActNorm(features))
    return [*chain, Inverse(Flatten(shape))]
