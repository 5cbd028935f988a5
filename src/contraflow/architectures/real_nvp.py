"""Real NVP, a flow of affine couplings. Dinh, Sohl-Dickstein, Bengio, 2017 (arXiv:1605.08803)."""

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
    Checkerboard,
    Coupling,
    MultiScale,
    Partition,
    Squeeze,
    alternate,
    halves,
)
from contraflow.distributions import StandardNormal
from contraflow.flow import Flow
from contraflow.nets import MLP, ResidualConvNet


def real_nvp(
    event_shape: Sequence[int],
    *,
    levels: int = 2,
    blocks: int = 2,
    hidden: int = 64,
    scale_bound: float = 2.0,
    context_features: int = 0,
    preprocessing: Bijection | None = None,
) -> Flow:
    """Real NVP: affine couplings, each followed by an ActNorm in place of the paper's batch normalisation.

    For images, a level consists of three couplings with checkerboards, a squeeze and three couplings with halves of the
    channels, after which half of the channels are factored out; the last level consists of four couplings with
    checkerboards. Conditioners are residual networks whose number of channels doubles at every squeeze. For vectors, a
    level consists of six couplings, which alternate between halves and every second feature, with dense conditioners.

    Args:
        event_shape: ``(D,)`` with D >= 2, or ``(C, H, W)``.
        levels: number of levels.
        blocks: number of residual blocks (for vectors, of hidden layers) of each conditioner.
        hidden: channels of the conditioners' hidden layers in the first level; for vectors, their width.
        scale_bound: c of `Coupling`, in nats per element.
        context_features: width of the context, an input of every coupling; 0 for no context.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: `context_features` is negative.
        ShapeError: vectors have a single element, or images cannot be halved between all levels.

    >>> real_nvp((1, 8, 8), blocks=1, hidden=4).dimensions
    64
    """
    shape_of_context = context_shape(context_features)
    affine = partial(Coupling, scale_bound=scale_bound)
    if len(event_shape) == 1:
        dense = partial(MLP, hidden=(hidden,) * blocks, context_features=context_features)
        dense_chain = _dense_couplings(vector_features(event_shape), levels, affine, dense)
        return Flow(event_shape, dense_chain, None, preprocessing, shape_of_context)
    channels, height, width = image_shape(event_shape)
    check_halvings((height, width), levels - 1, levels)
    body: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for level in range(levels):
        convolutional = partial(ResidualConvNet, blocks=blocks, context_features=context_features)
        shape = (channels, height, width)
        last = level == levels - 1
        boards = [Checkerboard(shape, swap=index % 2 == 1) for index in range(4 if last else 3)]
        chain = _couplings(boards, channels, affine, partial(convolutional, hidden=hidden))
        if not last:
            channels, height, width, hidden = 4 * channels, height // 2, width // 2, 2 * hidden
            parts = [halves(channels, swap=index % 2 == 1) for index in range(3)]
            chain += [Squeeze(), *_couplings(parts, channels, affine, partial(convolutional, hidden=hidden))]
        body.append(Chain(chain))
        shapes.append((channels, height, width))
        channels //= 2
    base = StandardNormal((math.prod(event_shape),))
    return Flow(event_shape, MultiScale(body, shapes), base, preprocessing, shape_of_context)


def _dense_couplings(
    features: int, levels: int, affine: Callable[..., Coupling], net: Callable[[int, int], nn.Module]
) -> Chain:
    parts = [
        kind(features, swap) for _ in range(levels) for kind in (halves, alternate, halves) for swap in (False, True)
    ]
    return Chain(_couplings(parts, features, affine, net))


def _couplings(
    parts: Sequence[Partition], channels: int, affine: Callable[..., Coupling], net: Callable[[int, int], nn.Module]
) -> list[Bijection]:
    """A coupling for each partition, each followed by an ActNorm."""
    chain: list[Bijection] = []
    for part in parts:
        chain += [affine(part, net(part.seen, 2 * part.changed)), ActNorm(channels)]
    return chain


_PAPER = "Dinh et al. 2017"
_SMALL = {"levels": 2, "blocks": 1, "hidden": 4}
_named = partial(Architecture, small={(3,): _SMALL, (2, 4, 4): _SMALL}, learning_rate=1e-3)

#: Name → architecture. The learning rate is the paper's, Adam's default. For CIFAR-10, section 4.1 of the paper halves
#: the image once and has 8 residual blocks with 64 channels.
REAL_NVPS: dict[str, Architecture] = {
    "real_nvp": _named(real_nvp, (1, 8, 8), f"{_PAPER}: affine couplings; tables, 2-D and images on a CPU"),
    "real_nvp_small": _named(
        partial(real_nvp, blocks=1, hidden=16), (1, 8, 8), f"{_PAPER}: affine couplings, sized down for images on a CPU"
    ),
    "real_nvp_cifar10": _named(
        partial(real_nvp, levels=2, blocks=8, hidden=64), (3, 32, 32), f"{_PAPER}: Real NVP for CIFAR-10"
    ),
}
