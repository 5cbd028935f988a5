"""Glow: ActNorm, invertible 1×1 convolutions, couplings. Kingma and Dhariwal, 2018 (arXiv:1807.03039)."""

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
    """Glow, whose steps are an ActNorm, an invertible 1×1 convolution and a coupling of two halves of the channels.

    For images, every level is a squeeze and its steps, after which half of the channels are factored out; a final
    ActNorm serves as the learned prior of the last level. For vectors, there are levels × steps steps, whose
    conditioners are dense networks with two hidden layers, and a final ActNorm. Every coupling is the identity at
    initialisation.

    Args:
        event_shape: ``(D,)`` with D >= 2, or ``(C, H, W)``.
        levels: L of the paper.
        steps: K of the paper, the number of steps in each level.
        hidden: channels (for vectors, width) of the conditioners' hidden layers.
        affine: whether couplings are affine; otherwise they are additive.
        linear: parametrisation of the 1×1 convolution: ``"plu"``, ``"qr"`` or ``"matrix"`` (without factorisation).
        learned_prior: whether the mean and scale of the factored-out half are a 3×3 convolution of the other half.
        scale_bound: c of `Coupling` and `LearnedPrior`, in nats per element.
        context_features: width of the context, an input of every coupling and prior; 0 for no context.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: `linear` is unknown, or `context_features` is negative.
        ShapeError: vectors have a single element, or images cannot be halved as often as there are levels.

    >>> glow((1, 8, 8), steps=1, hidden=4).dimensions
    64
    """
    if linear not in LINEARS:
        raise unknown_name("linear", linear, LINEARS)
    shape_of_context = context_shape(context_features)

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
        return Flow(event_shape, dense_chain, None, preprocessing, shape_of_context)
    channels, height, width = image_shape(event_shape)
    check_halvings((height, width), levels, levels)
    convolutional = partial(ConvNet, context_features=context_features)
    conditioner = partial(convolutional, hidden=hidden)
    body: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for level in range(levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        chain = [Squeeze(), *(step(channels, conditioner) for _ in range(steps))]
        if level == levels - 1:
            chain.append(ActNorm(channels))
        elif learned_prior:
            net = convolutional(channels // 2, channels, None)
            chain.append(LearnedPrior(channels, net, scale_bound=scale_bound))
        body.append(Chain(chain))
        shapes.append((channels, height, width))
        channels //= 2
    base = StandardNormal((math.prod(event_shape),))
    return Flow(event_shape, MultiScale(body, shapes), base, preprocessing, shape_of_context)


_PAPER = "Kingma and Dhariwal 2018"
_SMALL = {"levels": 2, "steps": 1, "hidden": 4}
_named = partial(Architecture, small={(3,): _SMALL, (2, 4, 4): _SMALL}, learning_rate=1e-3)
_paper = partial(partial, glow, hidden=512)

#: Name → architecture. Levels, steps, couplings, the conditioners' 512 channels and the learning rate are those of the
#: authors' commands. There, 1×1 convolutions are not factorised by default (``linear="matrix"``), with LU factors as an
#: option; here they have PLU factors. There, affine scales are σ(a + 2); here `scale_bound` bounds them.
GLOWS: dict[str, Architecture] = {
    "glow": _named(glow, (1, 8, 8), f"{_PAPER}: Glow for tables, 2-D and images on a CPU"),
    "glow_cifar10": _named(_paper(levels=3, steps=32), (3, 32, 32), f"{_PAPER}: Glow for CIFAR-10"),
    "glow_imagenet32": _named(_paper(levels=3, steps=48), (3, 32, 32), f"{_PAPER}: Glow for ImageNet 32×32"),
    "glow_imagenet64": _named(_paper(levels=4, steps=48), (3, 64, 64), f"{_PAPER}: Glow for ImageNet 64×64"),
    "glow_celebahq256": _named(
        _paper(levels=6, steps=32, affine=False), (3, 256, 256), f"{_PAPER}: Glow for CelebA-HQ 256×256, 5 bits"
    ),
}
