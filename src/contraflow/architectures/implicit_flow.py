"""Implicit normalizing flows. Lu, Chen, Li, Wang, Zhu, ICLR 2021 (arXiv:2103.09527)."""

from __future__ import annotations

from collections.abc import Sequence

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.contraction_flow import contraction_flow
from contraflow.bijections import Bijection, ImplicitBlock
from contraflow.flow import Flow
from contraflow.lipschitz import Norms, Spectral
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def implicit_flow(
    event_shape: Sequence[int],
    *,
    blocks: int | Sequence[int] | None = None,
    hidden: int | Sequence[int] | None = None,
    bound: float = 0.98,
    activation: str = "lipswish",
    dense_blocks: int = 2,
    squeeze_first: bool = False,
    actnorm: bool = True,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A flow of implicit blocks, z + h(z) = x + g(x): `contraflow.bijections.ImplicitBlock`.

    Both directions solve a fixed point for every block, so a training step costs more than a residual flow's, and
    densities are accurate to the tolerance of the solver. A block has two contractions, so the defaults have half as
    many blocks as `residual_flow` for as many parameters.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        blocks: number of implicit blocks, each with two contractions, 5 by default; of each level for images, (2, 2) by
            default.
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

    >>> flow = implicit_flow((3,), blocks=2, hidden=(8,))
    >>> flow.certify().invertible, len(flow.certify().blocks)
    (True, 4)
    """
    images = len(event_shape) == 3
    return contraction_flow(
        event_shape,
        lambda make: ImplicitBlock(make(), make(), logdet, inverse, gradient),
        blocks=blocks if blocks is not None else (2, 2) if images else 5,
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
IMPLICIT_FLOWS: dict[str, Architecture] = {
    "implicit_flow": Architecture(
        implicit_flow,
        (1, 8, 8),
        "Lu et al. 2021: implicit flow, both directions by fixed points; vectors and images",
        small={
            (3,): {"blocks": 1, "hidden": (6, 6)},
            (2, 4, 4): {"blocks": (1, 1), "hidden": 4, "dense_blocks": 1},
        },
    ),
}
