"""Invertible residual networks. Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen, ICML 2019 (arXiv:1811.00995)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.residual_flow import residual_flow, residual_flow_images
from contraflow.bijections import Bijection
from contraflow.flow import Flow
from contraflow.lipschitz import Norms, Spectral
from contraflow.logdet import PowerSeries
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def iresnet(
    event_shape: Sequence[int],
    *,
    blocks: int | Sequence[int] | None = None,
    hidden: int | Sequence[int] | None = None,
    terms: int = 5,
    bound: float = 0.9,
    activation: str = "elu",
    norms: Norms = _SPECTRAL,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    r"""An i-ResNet: a residual flow trained on the power series of the log-determinant cut after n terms.

        log|det(I + J)| ≈ Σ_{k=1}^n (-1)^(k+1)/k · vᵀJᵏv,   off by at most D·L^(n+1) / ((n+1)(1-L)) a block.

    Beside `residual_flow`: fixed truncation, c = 0.9 a layer, ELU, and images squeezed before the first block, without
    fully connected blocks. The truncation is the architecture's: the estimator of a training recipe does not replace
    it, so training maximises a biased objective. `Flow.with_logdet`, `log_prob_estimate` and the evaluation of recipes
    put an unbiased estimator in its place.

    The authors' density model for CIFAR-10, of 16-16-16 blocks of 512, also lets half of the channels leave after every
    level but the last, and learns the mean and scale of every latent number; neither is so here.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        blocks: number of residual blocks, 10 by default; of each level for images, (4, 4) by default.
        hidden: widths of the hidden layers, (128, 128) by default; channels for images, 64 by default.
        terms: n; the authors' command for CIFAR-10 has 5.
        bound: c of each layer.
        activation, norms, inverse, gradient, preprocessing: as for `residual_flow`.

    Raises:
        ShapeError: neither a vector's nor an image's shape, or an image that cannot be halved as often.

    >>> flow = iresnet((3,), blocks=2, hidden=(8,))
    >>> flow.estimator_name
    '5 terms (biased), 1 probe'
    """
    images = len(event_shape) == 3
    settings: dict[str, Any] = {
        "blocks": blocks or ((4, 4) if images else 10),
        "hidden": hidden or (64 if images else (128, 128)),
        "bound": bound,
        "activation": activation,
        "norms": norms,
        "logdet": PowerSeries(terms),
        "inverse": inverse,
        "gradient": gradient,
        "preprocessing": preprocessing,
    }
    if images:
        return residual_flow_images(event_shape, squeeze_first=True, dense_blocks=0, **settings)
    return residual_flow(event_shape, **settings)


_ABOUT = "Behrmann et al. 2019"

#: Name → architecture.
IRESNETS: dict[str, Architecture] = {
    "iresnet": Architecture(
        iresnet,
        (1, 8, 8),
        f"{_ABOUT}: i-ResNet, biased log-determinant; vectors and images",
        small={(3,): {"blocks": 2, "hidden": (6, 6)}, (2, 4, 4): {"blocks": (1, 1), "hidden": 4}},
    ),
    "iresnet_cifar10": Architecture(
        partial(iresnet, blocks=(16, 16, 16), hidden=512),
        (3, 32, 32),
        f"{_ABOUT}: i-ResNet for CIFAR-10",
        small={(2, 4, 4): {"blocks": (1, 1), "hidden": 4}},
    ),
}
