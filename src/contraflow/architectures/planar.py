"""Planar flows. Rezende and Mohamed, 2015 (arXiv:1505.05770)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contraflow.architectures.architecture import Architecture
from contraflow.bijections import ActNorm, Bijection, Chain, Flatten, Planar
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow
from contraflow.numerics import Bisection


def planar(
    event_shape: Sequence[int],
    *,
    layers: int = 32,
    actnorm: bool = True,
    inverse: Bisection | None = None,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A sequence of planar flows, each a tanh along one direction.

    Each layer bends space along one hyperplane, so the flow needs many layers and suits data of few dimensions. The
    paper uses the layers from noise to samples; here a density has a closed form, at a cost of O(D) per layer, and a
    sample takes one bisection per layer. The default number of layers is not the paper's.

    Args:
        event_shape: ``(D,)``, or that of images, which are flattened.
        layers: number of layers.
        actnorm: whether there is an ActNorm before the first layer and after the last.
        inverse: tolerance and number of iterations of the bisections.
        preprocessing: as for `Flow`.

    >>> planar((1, 4, 4), layers=2).dimensions
    16
    """
    features = math.prod(event_shape)
    solver = inverse if inverse is not None else Bisection()
    chain: list[Bijection] = [Flatten(event_shape)] if len(event_shape) > 1 else []
    body: list[Bijection] = [Planar(features, solver) for _ in range(layers)]
    chain += [ActNorm(features), *body, ActNorm(features)] if actnorm else body
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing)


#: Name → architecture.
PLANARS: dict[str, Architecture] = {
    "planar": Architecture(
        planar,
        (2,),
        "Rezende and Mohamed 2015: planar flow",
        small={(3,): {"layers": 3}, (2, 4, 4): {"layers": 3}},
    ),
}
