"""Flows of blocks around contractions, whatever the block: vectors and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from contraflow.architectures.residual_levels import residual_chain, residual_levels
from contraflow.bijections import Bijection
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP, Norms
from contraflow.numerics import Contraction

#: Makes a block from a function that makes one of its contractions.
MakeBlock = Callable[[Callable[[], Contraction]], Bijection]


def contraction_flow(
    event_shape: Sequence[int],
    block: MakeBlock,
    *,
    blocks: Any,
    hidden: Any,
    bound: float,
    activation: str,
    norms: Norms,
    dense_blocks: int,
    squeeze_first: bool,
    actnorm: bool,
    preprocessing: Bijection | None,
) -> Flow:
    """A flow of vectors as in `residual_flow`, or of images as in `residual_flow_images`, with blocks of another kind.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        block: makes a block from a function that makes a contraction.
        blocks: number of blocks; a sequence with the number of each level for images.
        hidden: widths of the hidden layers of a contraction, a sequence; for images a number, their channels.
        bound, activation, norms: of each layer, as for `residual_flow`.
        dense_blocks: for images, blocks on the flattened image at the end, with two hidden layers of width `hidden`.
        squeeze_first: for images, squeeze before the first level.
        actnorm: whether ActNorm comes before the first block and after every one.
        preprocessing: as for `Flow`.
    """
    options: dict[str, Any] = {"bound": bound, "activation": activation, "norms": norms}
    if len(event_shape) == 3:

        def conv(channels: int, size: tuple[int, int], first: bool) -> Bijection:
            return block(lambda: LipschitzConvNet(channels, hidden, size, preactivation=not first, **options))

        return residual_levels(
            event_shape,
            conv,
            lambda features: block(lambda: LipschitzMLP(features, (hidden, hidden), **options)),
            blocks=blocks,
            dense_blocks=dense_blocks,
            squeeze_first=squeeze_first,
            actnorm=actnorm,
            preprocessing=preprocessing,
        )
    return residual_chain(
        event_shape,
        lambda features: block(lambda: LipschitzMLP(features, hidden, **options)),
        blocks=blocks,
        actnorm=actnorm,
        preprocessing=preprocessing,
    )
