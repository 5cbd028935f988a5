"""Invertible DenseNets (i-DenseNets). Perugachi-Diaz, Tomczak, Bhulai, NeurIPS 2021 (arXiv:2102.02694)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.residual_levels import residual_chain, residual_levels
from contraflow.bijections import Bijection, ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import DenseConcatenationConvNet, DenseConcatenationMLP, Norms, Spectral
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def idensenet(
    event_shape: Sequence[int],
    *,
    blocks: int | Sequence[int] | None = None,
    growth: int = 32,
    depth: int = 3,
    bound: float = 0.98,
    dense_blocks: int = 4,
    squeeze_first: bool = False,
    factor_out: bool = False,
    actnorm: bool = True,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    r"""An i-DenseNet: a Residual Flow whose g is densely connected, with learned weights and CLipSwish activations.

        h_l = [η̂₁ h_{l-1}, η̂₂ Φ(W_l h_{l-1} + b_l)],  g(x) = W_n h_{n-1}:  `contraflow.lipschitz.DenseConcatenation`.

    All other parts, including estimator and inverse, are those of `residual_flow` and `residual_flow_images`. A
    training step takes as many matrix products as theirs with layers of the same widths.

    The authors' flows for CIFAR-10 and ImageNet 32 have 16-16-16 and 32-32-32 blocks, depth 3, and a growth of 172 that
    counts both halves of CLipSwish, which is ``growth=86`` here. Their dense blocks begin with a layer to 64 features
    and have a growth of 32 (16); here dense blocks have the same depth and growth as the others.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        blocks: number of residual blocks, by default 10; for images that of each level, by default (4, 4).
        growth: number of outputs of each layer of g, which CLipSwish doubles.
        depth: number of layers of g with concatenation.
        bound: largest norm c of each layer.
        dense_blocks: for images, number of blocks on the flattened image at the end.
        squeeze_first, factor_out: as for `residual_flow_images`; images only.
        actnorm: whether there is an ActNorm before the first block and after every block.
        norms: `Spectral()`, or `MixedNorms((p, p, …))` with one of 1, 2, ∞ at all depth + 2 places.
        logdet, inverse, gradient, preprocessing: as for `residual_flow`.

    Raises:
        ShapeError: events are neither vectors nor images, or images cannot be halved as often as there are levels.
        DomainError: growth or depth is below 1.
        ConfigurationError: other norms.

    >>> flow = idensenet((3,), blocks=2, growth=8)
    >>> flow.certify().invertible
    True
    """
    block = partial(ResidualBlock, logdet=logdet, inverse=inverse, gradient=gradient)
    images = len(event_shape) == 3
    counts: Any = blocks if blocks is not None else (4, 4) if images else 10
    vector = partial(DenseConcatenationMLP, growth=growth, depth=depth, bound=bound, norms=norms)
    if images:
        return residual_levels(
            event_shape,
            lambda channels, size, first: block(
                DenseConcatenationConvNet(channels, growth, size, depth, bound=bound, norms=norms)
            ),
            lambda features: block(vector(features)),
            blocks=counts,
            dense_blocks=dense_blocks,
            squeeze_first=squeeze_first,
            factor_out=factor_out,
            actnorm=actnorm,
            preprocessing=preprocessing,
        )
    return residual_chain(
        event_shape,
        lambda features: block(vector(features)),
        blocks=counts,
        actnorm=actnorm,
        preprocessing=preprocessing,
    )


_PAPER = "Perugachi-Diaz et al. 2021"

#: Name → architecture.
IDENSENETS: dict[str, Architecture] = {
    "idensenet": Architecture(
        idensenet,
        (1, 8, 8),
        f"{_PAPER}: i-DenseNet, dense concatenation in g; vectors and images",
        small={(3,): {"blocks": 2, "growth": 4, "depth": 2}, (2, 4, 4): {"blocks": (1, 1), "growth": 3, "depth": 2}},
    ),
    "idensenet_small": Architecture(
        partial(idensenet, growth=16, depth=2), (1, 8, 8), f"{_PAPER}: i-DenseNet, sized down for images on a CPU"
    ),
}
