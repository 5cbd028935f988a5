"""Glow: ActNorm, invertible 1×1 convolution, coupling. Kingma and Dhariwal, 2018 (arXiv:1807.03039)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from contraflow.architectures.architecture import (
    Architecture,
    check_halvings,
    context_shape,
    image_shape,
    vector_features,
)
from contraflow.bijections import (
    ActNorm,
    Bijection,
    Chain,
    Coupling,
    LearnedPrior,
    MatrixLinear,
    MultiScale,
    PLULinear,
    QRLinear,
    Squeeze,
    halves,
)
from contraflow.distributions import StandardNormal
from contraflow.errors import unknown_name
from contraflow.flow import Flow
from contraflow.nets import MLP, ConvNet

#: Parametrisations of the invertible 1×1 convolution.
LINEARS: dict[str, Callable[[int], Bijection]] = {"plu": PLULinear, "qr": QRLinear, "matrix": MatrixLinear}


def glow(
    event_shape: Sequence[int],
    *,
    levels: int = 2,
    steps: int = 8,
    hidden: int = 64,
    affine: bool = True,
    linear: str = "plu",
    learned_prior: bool = True,
    scale_bound: float = 2.0,
    context_features: int = 0,
    preprocessing: Bijection | None = None,
) -> Flow:
    """Steps of ActNorm, an invertible 1×1 convolution and a coupling of the two halves of the channels.

    Images: every level squeezes, makes its steps, and half of the channels leave; an ActNorm at the end is the learned
    prior of what is left. Vectors: levels × steps steps, with a dense conditioner of two hidden layers, and an ActNorm;
    nothing leaves. Every coupling starts as the identity.

    Args:
        event_shape: ``(D,)`` with D >= 2, or ``(C, H, W)``.
        levels: L of the paper.
        steps: K, the steps of a level.
        hidden: channels of a conditioner's hidden layers, or their width.
        affine: affine couplings, or additive ones.
        linear: the 1×1 convolution, plu, qr or matrix (the weight itself).
        learned_prior: the mean and scale of the half that leaves are a 3×3 convolution of the half that stays.
        scale_bound: c of `Coupling` and `LearnedPrior`, in nats per number.
        context_features: width of the context that every coupling and prior is given; 0 for none.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: an unknown `linear`, or `context_features` is negative.
        ShapeError: a vector of one number, or an image that cannot be halved as often as there are levels.

    >>> glow((1, 8, 8), steps=1, hidden=4).dimensions
    64
    """
    if linear not in LINEARS:
        raise unknown_name("linear", linear, LINEARS)
    given = context_shape(context_features)

    def step(channels: int, net: Callable[[int, int], nn.Module]) -> Chain:
        parts = halves(channels)
        conditioner = net(parts.seen, parts.changed * (1 + affine))
        coupling = Coupling(parts, conditioner, affine=affine, scale_bound=scale_bound)
        return Chain([ActNorm(channels), LINEARS[linear](channels), coupling])

    if len(event_shape) == 1:
        features = vector_features(event_shape)
        dense = partial(MLP, hidden=(hidden, hidden), context_features=context_features)
        chain: list[Bijection] = [step(features, dense) for _ in range(levels * steps)]
        dense_chain = Chain([*chain, ActNorm(features)])
        return Flow(event_shape, dense_chain, None, preprocessing, given)
    channels, height, width = image_shape(event_shape)
    check_halvings((height, width), levels, levels)
    convolutional = partial(ConvNet, context_features=context_features)
    wide = partial(convolutional, hidden=hidden)
    body: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for level in range(levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        chain = [Squeeze(), *(step(channels, wide) for _ in range(steps))]
        if level == levels - 1:
            chain.append(ActNorm(channels))
        elif learned_prior:
            net = convolutional(channels // 2, channels, None)
            chain.append(LearnedPrior(channels, net, scale_bound=scale_bound))
        body.append(Chain(chain))
        shapes.append((channels, height, width))
        channels //= 2
    base = StandardNormal((math.prod(event_shape),))
    return Flow(event_shape, MultiScale(body, shapes), base, preprocessing, given)


_PAPER = "Kingma and Dhariwal 2018"
_SMALL = {"levels": 2, "steps": 1, "hidden": 4}
_named = partial(Architecture, small={(3,): _SMALL, (2, 4, 4): _SMALL}, learning_rate=1e-3)
_paper = partial(partial, glow, hidden=512)

#: Name → architecture. Levels, steps, couplings, the conditioners' 512 channels and the learning rate are those of the
#: authors' commands. Their 1×1 convolution is the weight itself, ``linear="matrix"``, with LU factors as a switch; ours
#: has PLU factors. Their affine scale is σ(a + 2), ours is bounded by `scale_bound`.
GLOWS: dict[str, Architecture] = {
    "glow": _named(glow, (1, 8, 8), f"{_PAPER}: Glow for tables, 2-D and images on a CPU"),
    "glow_cifar10": _named(_paper(levels=3, steps=32), (3, 32, 32), f"{_PAPER}: Glow for CIFAR-10"),
    "glow_imagenet32": _named(_paper(levels=3, steps=48), (3, 32, 32), f"{_PAPER}: Glow for ImageNet 32×32"),
    "glow_imagenet64": _named(_paper(levels=4, steps=48), (3, 64, 64), f"{_PAPER}: Glow for ImageNet 64×64"),
    "glow_celebahq256": _named(
        _paper(levels=6, steps=32, affine=False), (3, 256, 256), f"{_PAPER}: Glow for CelebA-HQ 256×256, 5 bits"
    ),
}
