"""Residual Flows. Chen, Behrmann, Duvenaud, Jacobsen, NeurIPS 2019 (arXiv:1906.02735), Appendix E."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from contraflow.architectures.architecture import Architecture, vector_features
from contraflow.architectures.residual_levels import residual_levels
from contraflow.bijections import ActNorm, Bijection, Chain, ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP, Norms, Spectral
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def residual_flow(
    event_shape: Sequence[int],
    *,
    blocks: int = 10,
    hidden: Sequence[int] = (128, 128, 128, 128),
    bound: float = 0.98,
    activation: str = "lipswish",
    actnorm: bool = True,
    zero_start: float = 1.0,
    initialisation: str | None = None,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A dense Residual Flow for tables and 2-D data.

    Args:
        event_shape: ``(D,)``.
        blocks: number of residual blocks.
        hidden: widths of the hidden layers of g, after concatenation where the activation concatenates; the paper's
            2-D flows have four of 128 and 100 blocks.
        bound: c of each layer.
        activation: name in `contraflow.lipschitz.ACTIVATIONS`.
        actnorm: ActNorm before the first block and after every one.
        zero_start: factor of the initial weight of every block's last layer.
        initialisation: of weights: default (torch's) or orthogonal; ``None`` for orthogonal where the activation
            concatenates, else default.
        norms: `Spectral()`, `MixedNorms((2, 3, 2))` with one order more than layers of g, or `LearnedNorms()`.
        logdet, inverse, gradient: as for `ResidualBlock`.
        preprocessing: as for `Flow`.

    >>> residual_flow((3,), blocks=2, hidden=(8,)).dimensions
    3
    """
    features = vector_features(event_shape)
    chain: list[Bijection] = [ActNorm(features)] if actnorm else []
    for _ in range(blocks):
        g = LipschitzMLP(
            features,
            hidden,
            bound=bound,
            activation=activation,
            zero_start=zero_start,
            initialisation=initialisation,
            norms=norms,
        )
        chain.append(ResidualBlock(g, logdet, inverse, gradient))
        if actnorm:
            chain.append(ActNorm(features))
    return Flow(event_shape, Chain(chain), preprocessing=preprocessing)


def residual_flow_images(
    event_shape: Sequence[int],
    *,
    blocks: Sequence[int] = (16, 16, 16),
    hidden: int = 512,
    squeeze_first: bool = False,
    factor_out: bool = False,
    dense_blocks: int = 4,
    dense_hidden: int = 128,
    kernels: Sequence[int] = (3, 1, 3),
    bound: float = 0.98,
    activation: str = "lipswish",
    preactivation: bool = True,
    actnorm: bool = True,
    zero_start: float = 1.0,
    initialisation: str | None = None,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A convolutional, multi-scale Residual Flow.

    Levels of blocks with a squeeze between them; ActNorm before the first block and after every one; the first block
    of all starts without an activation, since the data have none before it to undo.

    Args:
        event_shape: ``(C, H, W)``.
        blocks: residual blocks of each level.
        hidden: channels inside g, after concatenation where the activation concatenates.
        squeeze_first: squeeze before the first level (images above 32×32).
        factor_out: after every level but the last, half of the channels leave for the latent vector.
        dense_blocks: fully connected blocks at the end.
        dense_hidden: their width.
        kernels: kernel sizes of g.
        bound, activation, logdet, inverse, gradient, preprocessing: as for `residual_flow`.
        preactivation: g begins with its activation.
        actnorm: whether to use ActNorm.
        zero_start, initialisation: as for `residual_flow`, in the convolutional and in the dense blocks.
        norms: as for `residual_flow`, in the convolutional and in the dense blocks, which have three layers each.

    Raises:
        ShapeError: the image cannot be halved as often as there are levels.
    """
    options: dict[str, Any] = {
        "bound": bound,
        "activation": activation,
        "zero_start": zero_start,
        "initialisation": initialisation,
        "norms": norms,
    }
    block = partial(ResidualBlock, logdet=logdet, inverse=inverse, gradient=gradient)

    def conv(channels: int, size: tuple[int, int], first: bool) -> ResidualBlock:
        begins = preactivation and not first
        return block(LipschitzConvNet(channels, hidden, size, kernels=kernels, preactivation=begins, **options))

    def dense(features: int) -> ResidualBlock:
        return block(LipschitzMLP(features, (dense_hidden, dense_hidden), **options))

    return residual_levels(
        event_shape,
        conv,
        dense,
        blocks=blocks,
        dense_blocks=dense_blocks,
        squeeze_first=squeeze_first,
        factor_out=factor_out,
        actnorm=actnorm,
        preprocessing=preprocessing,
    )


_PAPER = "Chen et al. 2019"
_images = partial(Architecture, small={(2, 4, 4): {"blocks": (1, 1), "hidden": 4}})
_vectors = partial(Architecture, small={(3,): {"blocks": 2, "hidden": (6, 6)}})

#: Name → architecture. The first seven are the rows of the paper's Appendix E, with 3×3 → 1×1 → 3×3 blocks of 512
#: channels, dense blocks for the density of MNIST and CIFAR-10 alone, and factoring out above 32×32. The rest are the
#: commands of the authors' code. Those for ImageNet leave on the four dense blocks of its defaults, against Appendix E;
#: later papers count 47.1 million parameters for ImageNet 32, which are those of ``dense_blocks=4``. There is none for
#: SVHN, whose hybrid model has the blocks of CIFAR-10, nor for 5-bit CelebA 64, which is built like ImageNet 64. The
#: 2-D flow has the defaults of its script. On images that code draws the number of terms from a Poisson law, where the
#: paper's text and this library take the geometric one.
RESIDUAL_FLOWS: dict[str, Architecture] = {
    "residual_flow_mnist": _images(residual_flow_images, (1, 28, 28), f"{_PAPER}: MNIST"),
    "residual_flow_cifar10": _images(residual_flow_images, (3, 32, 32), f"{_PAPER}: CIFAR-10"),
    "residual_flow_svhn": _images(partial(residual_flow_images, dense_blocks=0), (3, 32, 32), f"{_PAPER}: SVHN"),
    "residual_flow_imagenet32": _images(
        partial(residual_flow_images, blocks=(32, 32, 32), dense_blocks=0), (3, 32, 32), f"{_PAPER}: ImageNet 32×32"
    ),
    "residual_flow_imagenet64": _images(
        partial(residual_flow_images, blocks=(32, 32, 32), dense_blocks=0, squeeze_first=True, factor_out=True),
        (3, 64, 64),
        f"{_PAPER}: ImageNet 64×64",
    ),
    "residual_flow_celeba64": _images(
        partial(residual_flow_images, blocks=(32, 32, 32), dense_blocks=0, squeeze_first=True, factor_out=True),
        (3, 64, 64),
        f"{_PAPER}: CelebA 64×64, 5 bits",
    ),
    "residual_flow_celebahq256": _images(
        partial(
            residual_flow_images,
            blocks=(16,) * 6,
            dense_blocks=0,
            squeeze_first=True,
            factor_out=True,
            activation="elu",
        ),
        (3, 256, 256),
        f"{_PAPER}: CelebA-HQ 256×256, 5 bits",
    ),
    "residual_flow_2d": _vectors(
        partial(residual_flow, blocks=100, bound=0.9, actnorm=False), (2,), f"{_PAPER}: 2-D densities"
    ),
    "residual_flow_table": _vectors(residual_flow, (43,), "dense Residual Flow for tables and small 2-D runs"),
    "residual_flow_2d_small": _vectors(
        partial(residual_flow, blocks=8, hidden=(64, 64, 64)), (2,), "sized down: 2-D densities on a CPU"
    ),
    "residual_flow_images": _images(
        partial(residual_flow_images, blocks=(2, 4, 4), hidden=64, dense_hidden=64),
        (1, 28, 28),
        "sized down: MNIST on a CPU",
    ),
    "residual_flow_digits": _images(
        partial(residual_flow_images, blocks=(4, 4), hidden=64, dense_hidden=64),
        (1, 8, 8),
        "sized down: 8×8 digits on a CPU",
    ),
}
