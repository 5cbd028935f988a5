"""Sylvester flows. Van den Berg, Hasenclever, Tomczak and Welling 2018 (arXiv:1803.05649)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contraflow.architectures.architecture import Architecture
from contraflow.bijections import ActNorm, Bijection, Chain, Flatten, Sylvester
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow
from contraflow.numerics import Bisection


def sylvester(
    event_shape: Sequence[int],
    *,
    layers: int = 16,
    components: int = 8,
    actnorm: bool = True,
    inverse: Bisection | None = None,
    preprocessing: Bijection | None = None,
) -> Flow:
    """Several tanh along orthonormal directions, Q by Householder reflections, again and again.

    The paper uses it from noise to samples; here a density is in closed form, O(DM) a layer, and a sample takes M
    bisections a layer, one after another. The authors' example on MNIST has 4 layers on 64 latent numbers, with M = 8
    for orthogonal Q and 8 reflections for Householder's; 16 layers, for densities of data, are ours.

    Args:
        event_shape: ``(D,)``, or that of images, which are flattened.
        layers: how many.
        components: M of each layer; D where that is less.
        actnorm, inverse, preprocessing: as for `planar`.

    >>> sylvester((1, 4, 4), layers=2).dimensions
    16
    """
    features = math.prod(event_shape)
    solver = inverse if inverse is not None else Bisection()
    chain: list[Bijection] = [Flatten(event_shape)] if len(event_shape) > 1 else []
    body: list[Bijection] = [Sylvester(features, min(components, features), solver) for _ in range(layers)]
    chain += [ActNorm(features), *body, ActNorm(features)] if actnorm else body
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing)


_SMALL = {"layers": 2, "components": 2}

#: Name → architecture.
SYLVESTERS: dict[str, Architecture] = {
    "sylvester": Architecture(
        sylvester,
        (43,),
        "Van den Berg et al. 2018: Sylvester flow, Householder",
        small={(3,): _SMALL, (2, 4, 4): _SMALL},
    ),
}
