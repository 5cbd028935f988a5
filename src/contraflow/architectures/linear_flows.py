"""Linear maps with a bend between them: the factorisations of a square matrix as density models.

A stack of linear maps is one linear map, and its density a Gaussian. So after every map each feature passes a
`BentIdentity`, a smooth leaky slope, and an ActNorm places the next bend: an invertible network without conditioners,
piecewise linear but for rounded corners, with tails that stay Gaussian. Images are taken as vectors.
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
    """ActNorm, W = P L (U + diag(s)) and a bend, again and again.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039), section 3.2, for W. A density and a sample cost O(D²) a layer.

    Args:
        event_shape: ``(D,)``, or that of images, which are flattened.
        layers: how many.
        preprocessing: as for `Flow`.

    >>> linear_plu((1, 4, 4), layers=2).dimensions
    16
    """
    return _bent(event_shape, layers, PLULinear, preprocessing)


def linear_qr(event_shape: Sequence[int], *, layers: int = 16, preprocessing: Bijection | None = None) -> Flow:
    """ActNorm, W = Q R and a bend, again and again.

    Hoogeboom, van den Berg and Welling 2019 (arXiv:1901.11137) for W. O(D²) a sample and O(D³) a batch, for Q.

    Args:
        event_shape, layers, preprocessing: as for `linear_plu`.

    >>> linear_qr((3,), layers=2).dimensions
    3
    """
    return _bent(event_shape, layers, QRLinear, preprocessing)


def orthogonal(
    event_shape: Sequence[int],
    *,
    layers: int = 16,
    parametrisation: str = "householder",
    preprocessing: Bijection | None = None,
) -> Flow:
    """ActNorm, an orthogonal W and a bend, again and again: all volume is changed feature by feature.

    Tomczak and Welling 2016 (arXiv:1611.09630) for W; the order of rotation and one-dimensional maps is that of
    Gaussianisation, Laparra, Camps-Valls and Malo 2011. O(D²) a sample and O(D³) a batch, for W.

    Args:
        event_shape, layers, preprocessing: as for `linear_plu`.
        parametrisation: ``"householder"`` or ``"exponential"``, as for `OrthogonalLinear`.

    >>> orthogonal((3,), layers=2, parametrisation="exponential").dimensions
    3
    """
    return _bent(event_shape, layers, partial(OrthogonalLinear, parametrisation=parametrisation), preprocessing)


def _bent(
    event_shape: Sequence[int], layers: int, make: Callable[[int], Bijection], preprocessing: Bijection | None
) -> Flow:
    features = math.prod(event_shape)
    chain: list[Bijection] = [Flatten(event_shape)] if len(event_shape) > 1 else []
    for _ in range(layers):
        chain += [ActNorm(features), make(features), BentIdentity(features)]
    chain.append(ActNorm(features))
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing)


# Of 1e-3, 5e-3 and 2e-2 the second did best for linear_plu on digits in 300 steps, one run each.
_named = partial(
    Architecture, event_shape=(43,), small={(3,): {"layers": 2}, (2, 4, 4): {"layers": 2}}, learning_rate=5e-3
)

#: Name → architecture.
LINEAR_FLOWS: dict[str, Architecture] = {
    "linear_plu": _named(linear_plu, about="Kingma and Dhariwal 2018: PLU linear maps, a bend between them"),
    "linear_qr": _named(linear_qr, about="Hoogeboom et al. 2019: QR linear maps, a bend between them"),
    "orthogonal": _named(orthogonal, about="Tomczak and Welling 2016: Householder maps, a bend between them"),
}
