"""Residual Flows. Chen, Behrmann, Duvenaud, Jacobsen, NeurIPS 2019 (arXiv:1906.02735)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.residual_levels import residual_chain, residual_levels
from contraflow.bijections import Bijection, ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP, Norms, Spectral
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import FixedPointSolver

_SPECTRAL = Spectral()


def residual_flow(
    event_shape: Sequence[int],
    *,
    blocks: int = 8,
    hidden: Sequence[int] = (128, 128, 128),
    bound: float = 0.98,
    activation: str | None = None,
    preactivation: bool = False,
    actnorm: bool = True,
    zero_start: float = 1.0,
    initialisation: str | None = None,
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "kept",
    preprocessing: Bijection | None = None,
) -> Flow:
    """A dense Residual Flow for tables and 2-D data.

    The defaults are those that fitted best in equal time (docs/decisions/013-dense-residual-flows.md). The paper's 2-D
    flow is `ARCHITECTURES["residual_flow_2d"]`: 100 blocks with four hidden layers of width 128, LipSwish.

    Args:
        event_shape: ``(D,)``.
        blocks: number of residual blocks.
        hidden: widths of the hidden layers of g, after concatenation where the activation concatenates.
        bound: largest norm c of each layer.
        activation: name in `contraflow.lipschitz.ACTIVATIONS`; ``None`` for concatenated_sine where the norms are
            spectral, else lipswish, the paper's, whose Lipschitz constant is the same in every norm.
        preactivation: whether g begins with an activation, not with a weight.
        actnorm: whether there is an ActNorm before the first block and after every block.
        zero_start: factor on the initial weights of every block's last layer.
        initialisation: of the weights: default (torch's) or orthogonal; ``None`` for orthogonal where the activation
            concatenates, else default.
        norms: `Spectral()`, `MixedNorms((2, 3, 2))` with one more order than g has layers, or `LearnedNorms()`.
        logdet, inverse: as for `ResidualBlock`.
        gradient: how gradients of the log-determinant are computed, a name in `contraflow.logdet.GRADIENTS`. By default
            activations are kept, since dense flows are small; dual stores none.
        preprocessing: as for `Flow`.

    >>> residual_flow((3,), blocks=2, hidden=(8,)).dimensions
    3
    """
    chosen = activation or ("concatenated_sine" if isinstance(norms, Spectral) else "lipswish")

    def block(features: int) -> Bijection:
        g = LipschitzMLP(
            features,
            hidden,
            bound=bound,
            activation=chosen,
            preactivation=preactivation,
            zero_start=zero_start,
            initialisation=initialisation,
            norms=norms,
        )
        return ResidualBlock(g, logdet, inverse, gradient)

    return residual_chain(event_shape, block, blocks=blocks, actnorm=actnorm, preprocessing=preprocessing)


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
    """A convolutional, multi-scale Residual Flow for images.

    The flow has levels of residual blocks with a squeeze between them, and an ActNorm before the first block and after
    every block. In every block but the very first, g begins with an activation.

    Args:
        event_shape: ``(C, H, W)``.
        blocks: number of residual blocks in each level.
        hidden: number of channels of the hidden layers of g, after concatenation where the activation concatenates.
        squeeze_first: whether there is a squeeze before the first level (for images above 32×32).
        factor_out: whether half of the channels are factored out after every level but the last.
        dense_blocks: number of fully connected blocks at the end.
        dense_hidden: width of the dense blocks.
        kernels: kernel sizes of g.
        bound, activation, logdet, inverse, gradient, preprocessing: as for `residual_flow`.
        preactivation: whether g begins with an activation in all blocks but the first.
        actnorm: whether to use ActNorm.
        zero_start, initialisation: as for `residual_flow`, in the convolutional and in the dense blocks.
        norms: as for `residual_flow`, in the convolutional and in the dense blocks, which have three layers each.

    Raises:
        ShapeError: images cannot be halved as often as there are levels.
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
        g = LipschitzConvNet(
            channels, hidden, size, kernels=kernels, preactivation=preactivation and not first, **options
        )
        return block(g)

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

#: Name → architecture. The first eight are the rows of the paper's Appendix E: 3×3 → 1×1 → 3×3 blocks of 512 channels,
#: dense blocks only for the density of MNIST and CIFAR-10, and factoring out above 32×32. Everything that Appendix E
#: does not state follows the commands of the authors' code. Its commands for ImageNet keep the default of four dense
#: blocks, in contradiction to Appendix E; the 47.1 million parameters that later papers count for ImageNet 32 are those
#: of ``dense_blocks=4``. The code has no command for SVHN, whose hybrid model has the blocks of CIFAR-10, nor for 5-bit
#: CelebA 64. The 2-D flow has the defaults of the script for 2-D data. For images, the
#: code draws the number of terms from a Poisson law; the paper's text and this library use the geometric law.
RESIDUAL_FLOWS: dict[str, Architecture] = {
    "residual_flow_mnist": _images(residual_flow_images, (1, 28, 28), f"{_PAPER}: MNIST"),
    "residual_flow_cifar10": _images(residual_flow_images, (3, 32, 32), f"{_PAPER}: CIFAR-10"),
    "residual_flow_cifar10_small": _images(
        partial(residual_flow_images, squeeze_first=True),
        (3, 32, 32),
        f"{_PAPER}: CIFAR-10, downsampled before the first block (Table 3)",
    ),
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
        partial(residual_flow_images, blocks=(16,) * 4, dense_blocks=0, squeeze_first=True, factor_out=True),
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
        partial(
            residual_flow,
            blocks=100,
            hidden=(128,) * 4,
            bound=0.9,
            activation="lipswish",
            preactivation=True,
            actnorm=False,
            zero_start=1e-3,
            gradient="dual",
        ),
        (2,),
        f"{_PAPER}: 2-D densities",
    ),
    "residual_flow_table": _vectors(residual_flow, (43,), "dense Residual Flow for tables"),
    "residual_flow_2d_small": _vectors(
        partial(residual_flow, hidden=(64, 64, 64)), (2,), "dense Residual Flow for 2-D densities on a CPU"
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
