"""Linear flows: linear maps in several factorisations, alternating with elementwise bent identities.

A composition of linear maps alone is linear, and its density is Gaussian. A `BentIdentity`, which is a smooth leaky
ReLU, therefore follows every linear map, and an ActNorm precedes it. The result is an invertible network without
conditioners that is smoothly piecewise linear, so its tails remain Gaussian. Images are flattened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from contraflow.architectures.architecture import Architecture
from contraflow.bijections import (
    ActNorm,
    BentIdentity,
    Bijection,
    Chain,
    Flatten,
    OrthogonalLinear,
    PLULinear,
    QRLinear,
)
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow


def linear_plu(event_shape: Sequence[int], *, layers: int = 16, preprocessing: Bijection | None = None) -> Flow:
    """A flow whose layers are an ActNorm, a linear map W = P L (U + diag(s)) and a bent identity.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), section 3.2, for W. A density or a sample takes O(D²) per layer.

    Args:
        event_shape: ``(D,)``, or that of images, which are flattened.
        layers: number of layers.
        preprocessing: as for `Flow`.

    >>> linear_plu((1, 4, 4), layers=2).dimensions
    16
    """
    return _alternating(event_shape, layers, PLULinear, preprocessing)


def linear_qr(event_shape: Sequence[int], *, layers: int = 16, preprocessing: Bijection | None = None) -> Flow:
    """A flow whose layers are an ActNorm, a linear map W = Q R and a bent identity.

    Hoogeboom, van den Berg and Welling 2019 (arXiv:1901.11137) for W. The cost is O(D²) per sample and O(D³) per batch,
    for Q.

    Args:
        event_shape, layers, preprocessing: as for `linear_plu`.

    >>> linear_qr((3,), layers=2).dimensions
    3
    """
    return _alternating(event_shape, layers, QRLinear, preprocessing)


def orthogonal(
    event_shape: Sequence[int],
    *,
    layers: int = 16,
    parametrisation: str = "householder",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A flow whose layers are an ActNorm, an orthogonal map W and a bent identity; only elementwise maps change volume.

    Tomczak and Welling 2016 (arXiv:1611.09630) for W. The alternation of rotations and one-dimensional maps is that of
    Gaussianisation, Laparra, Camps-Valls and Malo 2011. The cost is O(D²) per sample and O(D³) per batch, for W.

    Args:
        event_shape, layers, preprocessing: as for `linear_plu`.
        parametrisation: ``"householder"`` or ``"exponential"``, as for `OrthogonalLinear`.

    >>> orthogonal((3,), layers=2, parametrisation="exponential").dimensions
    3
    """
    return _alternating(event_shape, layers, partial(OrthogonalLinear, parametrisation=parametrisation), preprocessing)


def _alternating(
    event_shape: Sequence[int], layers: int, linear: Callable[[int], Bijection], preprocessing: Bijection | None
) -> Flow:
    features = math.prod(event_shape)
    chain: list[Bijection] = [Flatten(event_shape)] if len(event_shape) > 1 else []
    for _ in range(layers):
        chain += [ActNorm(features), linear(features), BentIdentity(features)]
    chain.append(ActNorm(features))
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing)


# Among 1e-3, 5e-3 and 2e-2, 5e-3 was best for linear_plu on digits in 300 steps, with one run each.
_named = partial(
    Architecture, event_shape=(43,), small={(3,): {"layers": 2}, (2, 4, 4): {"layers": 2}}, learning_rate=5e-3
)

#: Name → architecture.
LINEAR_FLOWS: dict[str, Architecture] = {
    "linear_plu": _named(linear_plu, about="Kingma and Dhariwal 2018: PLU linear maps and bent identities"),
    "linear_qr": _named(linear_qr, about="Hoogeboom et al. 2019: QR linear maps and bent identities"),
    "orthogonal": _named(orthogonal, about="Tomczak and Welling 2016: Householder maps and bent identities"),
}
