"""NICE, a flow of additive couplings. Dinh, Krueger, Bengio, 2014 (arXiv:1410.8516)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from contraflow.architectures.architecture import Architecture, context_shape
from contraflow.bijections import ActNorm, Bijection, Chain, Coupling, Flatten, alternate
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow
from contraflow.nets import MLP


def nice(
    event_shape: Sequence[int],
    *,
    couplings: int = 4,
    hidden: Sequence[int] = (128, 128),
    context_features: int = 0,
    preprocessing: Bijection | None = None,
) -> Flow:
    """NICE: additive couplings that alternate between even and odd features, followed by one scale for each feature.

    Images are flattened, as in the paper. The scale is an ActNorm, so it includes a shift and is initialised by the
    first batch. The base is a standard normal, where the paper uses a logistic distribution for most data.

    Args:
        event_shape: any shape with at least two elements.
        couplings: number of couplings; at least three are needed for every feature to depend on every other.
        hidden: widths of the hidden layers of the conditioners.
        context_features: width of the context, an input of every coupling; 0 for no context.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: `context_features` is negative.
        ShapeError: events have a single element.

    >>> nice((1, 4, 4), couplings=2, hidden=(8,)).dimensions
    16
    """
    shape_of_context = context_shape(context_features)
    features = math.prod(event_shape)
    chain: list[Bijection] = [Flatten(event_shape)] if len(event_shape) > 1 else []
    for index in range(couplings):
        parts = alternate(features, swap=index % 2 == 1)
        net = MLP(parts.seen, parts.changed, hidden, context_features=context_features)
        chain.append(Coupling(parts, net, affine=False))
    chain.append(ActNorm(features))
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing, shape_of_context)


_PAPER = "Dinh et al. 2014"
_SMALL = {"couplings": 3, "hidden": (6,)}
_named = partial(Architecture, small={(3,): _SMALL, (2, 4, 4): _SMALL}, learning_rate=1e-3)

#: Name → architecture. The learning rate is that of the authors, who decay it to 1e-4. Their MNIST model has five
#: hidden layers of width 1000 in each of its four couplings, and a logistic base.
NICES: dict[str, Architecture] = {
    "nice": _named(nice, (1, 8, 8), f"{_PAPER}: additive couplings; tables, 2-D and images on a CPU"),
    "nice_mnist": _named(partial(nice, hidden=(1000,) * 5), (1, 28, 28), f"{_PAPER}: NICE for MNIST"),
}
