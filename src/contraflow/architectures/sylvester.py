"""Sylvester flows. Van den Berg, Hasenclever, Tomczak, Welling, 2018 (arXiv:1803.05649)."""

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
    """A sequence of Sylvester flows, each with tanh along M orthonormal directions given by Householder reflections.

    The paper uses the layers from noise to samples; here a density has a closed form, at a cost of O(DM) per layer, and
    a sample takes M successive bisections per layer. The authors' example on MNIST has 4 layers on 64 latent variables,
    with M = 8 for orthogonal Q and 8 reflections for Householder Q; the default of 16 layers here is for densities of
    data.

    Args:
        event_shape: ``(D,)``, or that of images, which are flattened.
        layers: number of layers.
        components: M of each layer, reduced to D if D is smaller.
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
