"""Monotone Flows. Ahn, Kim, Hong, Kim, NeurIPS 2022 (arXiv:2210.08176)."""

from __future__ import annotations

from collections.abc import Sequence

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.contraction_flow import contraction_flow
from contraflow.bijections import Bijection, MonotoneBlock
from contraflow.flow import Flow
from contraflow.lipschitz import Norms, Spectral
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def monotone_flow(
    event_shape: Sequence[int],
    *,
    blocks: int | Sequence[int] | None = None,
    hidden: int | Sequence[int] | None = None,
    bound: float = 0.98,
    activation: str = "lipswish",
    dense_blocks: int = 4,
    squeeze_first: bool = False,
    actnorm: bool = True,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A flow of monotone blocks, the Cayley transforms of contractions: `contraflow.bijections.MonotoneBlock`.

    Both directions solve a fixed point for every block, so a training step costs more than a residual flow's, and
    densities are accurate to the tolerance of the solver. It has as many parameters as a residual flow of this size.
    The authors' activation is CPila.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        blocks: number of monotone blocks, 10 by default; of each level for images, (4, 4) by default.
        hidden: widths of the hidden layers of a contraction, (128, 128, 128, 128) by default; for images its channels
            and the width of dense blocks, 64 by default.
        bound: c of each layer.
        activation: name in `contraflow.lipschitz.ACTIVATIONS`.
        dense_blocks: for images, blocks on the flattened image at the end.
        squeeze_first: for images, squeeze before the first level.
        actnorm: ActNorm before the first block and after every one.
        norms, logdet, inverse, gradient, preprocessing: as for `residual_flow`.

    Raises:
        ShapeError: neither a vector's nor an image's shape, or an image that cannot be halved as often.

    >>> flow = monotone_flow((3,), blocks=2, hidden=(8,))
    >>> flow.certify().invertible, len(flow.certify().blocks)
    (True, 2)
    """
    images = len(event_shape) == 3
    return contraction_flow(
        event_shape,
        lambda make: MonotoneBlock(make(), logdet, inverse, gradient),
        blocks=blocks if blocks is not None else (4, 4) if images else 10,
        hidden=hidden if hidden is not None else 64 if images else (128, 128, 128, 128),
        bound=bound,
        activation=activation,
        norms=norms,
        dense_blocks=dense_blocks,
        squeeze_first=squeeze_first,
        actnorm=actnorm,
        preprocessing=preprocessing,
    )


#: Name → architecture.
MONOTONE_FLOWS: dict[str, Architecture] = {
    "monotone_flow": Architecture(
        monotone_flow,
        (1, 8, 8),
        "Ahn et al. 2022: monotone flow, both directions by fixed points; vectors and images",
        small={
            (3,): {"blocks": 2, "hidden": (6, 6)},
            (2, 4, 4): {"blocks": (1, 1), "hidden": 4, "dense_blocks": 1},
        },
    ),
}
