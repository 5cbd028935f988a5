"""Invertible residual networks (i-ResNets). Behrmann et al., ICML 2019 (arXiv:1811.00995)."""

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
    r"""An i-ResNet: a residual flow trained on a power series of the log-determinant that is truncated after n terms.

        log|det(I + J)| ≈ Σ_{k=1}^n (-1)^(k+1)/k · vᵀJᵏv,   with an error of at most D·L^(n+1) / ((n+1)(1-L)) per block.

    It differs from `residual_flow` in the fixed truncation, c = 0.9 for each layer and ELU activations; images are
    squeezed before the first block and there are no dense blocks. The truncation belongs to the architecture: the
    estimator of a training recipe does not replace it, so training maximises a biased objective. `Flow.with_logdet`,
    `log_prob_estimate` and the evaluation of recipes use an unbiased estimator instead.

    The authors' density model for CIFAR-10 has 16-16-16 blocks of 512 channels, factors out half of the channels after
    every level but the last, and learns the mean and scale of every latent variable. This flow does none of these.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        blocks: number of residual blocks, by default 10; for images that of each level, by default (4, 4).
        hidden: widths of the hidden layers, by default (128, 128); for images their channels, by default 64.
        terms: n; the authors' command for CIFAR-10 has 5.
        bound: largest norm c of each layer.
        activation, norms, inverse, gradient, preprocessing: as for `residual_flow`.

    Raises:
        ShapeError: events are neither vectors nor images, or images cannot be halved as often as there are levels.

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
    return residual_flow(event_shape, preactivation=True, **settings)


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
