"""Hybrid models: a flow with a classifier. Chen et al. 2019 (arXiv:1906.02735), section 5.3."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from torch import nn

from contraflow.architectures.architecture import Architecture, vector_features
from contraflow.architectures.hybrid_flow import BranchedFlow, HybridFlow, MixtureFlow
from contraflow.architectures.residual_levels import residual_levels
from contraflow.bijections import (
    ActNorm,
    Bijection,
    Chain,
    Checkerboard,
    Coupling,
    Partition,
    PLULinear,
    ResidualBlock,
    halves,
)
from contraflow.distributions import ClassNormal, StandardNormal
from contraflow.errors import ConfigurationError, unknown_name
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP, Norms, Spectral
from contraflow.logdet import TRAINING, Contraction, LogDetEstimator
from contraflow.nets import MLP, ConvNet
from contraflow.numerics import FixedPointSolver

#: Kinds of blocks and of classifiers.
BLOCKS = ("residual", "coupling", "coupling_conv1x1")
CLASSIFIERS = ("branches", "base")

_SPECTRAL = Spectral()


def hybrid(
    event_shape: Sequence[int],
    *,
    classes: int = 10,
    block: str = "residual",
    classifier: str = "branches",
    branch_features: int = 256,
    blocks: Sequence[int] = (4, 4),
    hidden: int = 64,
    dense_blocks: int = 4,
    dense_hidden: int = 64,
    bound: float = 0.98,
    activation: str = "lipswish",
    norms: Norms = _SPECTRAL,
    logdet: LogDetEstimator = TRAINING,
    inverse: FixedPointSolver | None = None,
    gradient: str = "dual",
    preprocessing: Bijection | None = None,
) -> HybridFlow:
    r"""A flow with a classifier, which computes log p(x) and log p(y|x) in one pass.

    The flow has levels of blocks, with an ActNorm before the first block and after every block. Images are squeezed
    between levels and pass dense blocks at the end, as in `residual_flow_images`.

    With ``classifier="branches"``, the output of every level (for images, after its squeeze) is also the input of a
    branch: for images, 3×3 convolution → ActNorm → ReLU → average pooling; for vectors, linear layer → ActNorm → ReLU.
    The features of all branches together are the input of one linear softmax layer. With ``classifier="base"``, every
    class has its own Gaussian in the latent space, and p(y|x) follows by Bayes' rule.

    All kinds of blocks contain the same networks, 3×3 → 1×1 → 3×3 or dense:

    - ``"residual"``: x + g(x), with a bound on the norm of every layer of g.
    - ``"coupling"``: affine couplings, whose conditioner has ReLU activations and no bound on its norms. Partitions are
      checkerboards before the first squeeze and halves of the channels after it.
    - ``"coupling_conv1x1"``: the same, with an invertible 1×1 convolution (for vectors, a linear map) before every
      coupling of two channels or more.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        classes: number of classes.
        block: kind of the blocks, see above.
        classifier: ``"branches"`` or ``"base"``.
        branch_features: number of features of each branch.
        blocks: number of blocks in each level.
        hidden: channels (for vectors, width) of the two hidden layers of g.
        dense_blocks: for images, number of blocks on the flattened image at the end.
        dense_hidden: width of the dense blocks.
        bound, activation, norms, logdet, inverse, gradient: of residual blocks, as for `residual_flow`.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: the block or classifier is unknown, or there are fewer than two classes or no levels.
        ShapeError: images cannot be halved as often as there are levels.

    >>> import torch
    >>> flow = hybrid((3,), classes=2, blocks=(1, 1), hidden=8, branch_features=4)
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, -1])
    >>> flow.log_prob(x, y).shape, flow.class_logits(x).shape
    (torch.Size([5]), torch.Size([5, 2]))
    """
    if classes < 2 or not blocks:
        raise ConfigurationError(f"classes={classes}, blocks={blocks}: at least two classes and one level are needed.")
    if classifier not in CLASSIFIERS:
        raise unknown_name("classifier", classifier, CLASSIFIERS)
    if block not in BLOCKS:
        raise unknown_name("block", block, BLOCKS)
    if block == "residual":
        residual = partial(ResidualBlock, logdet=logdet, inverse=inverse, gradient=gradient)
        builder: _BlockBuilder = _ResidualBlocks(residual, {"bound": bound, "activation": activation, "norms": norms})
    else:
        builder = _Couplings(tuple(event_shape)[1:], linear=block == "coupling_conv1x1")
    if len(event_shape) == 1:
        features = vector_features(event_shape)
        body = _vector_levels(features, blocks, partial(builder.dense, hidden=hidden))
        branch, widths = _dense_branch, [features] * len(blocks)
    else:
        conv, dense = partial(builder.conv, hidden=hidden), partial(builder.dense, hidden=dense_hidden)
        body = cast(
            Chain, residual_levels(event_shape, conv, dense, blocks=blocks, dense_blocks=dense_blocks).bijection
        )
        branch, widths = _conv_branch, _channels(event_shape[0], len(blocks))
    if classifier == "base":
        return MixtureFlow(event_shape, body, ClassNormal((math.prod(event_shape),), classes), preprocessing)
    branches = [branch(width, branch_features) for width in widths]
    base = StandardNormal((math.prod(event_shape),))
    return BranchedFlow(event_shape, body, branches, branch_features, classes, base, preprocessing)


class _BlockBuilder(Protocol):
    """Builds the blocks for images and for vectors."""

    def conv(self, channels: int, size: tuple[int, int], first: bool, hidden: int) -> Bijection: ...

    def dense(self, features: int, hidden: int) -> Bijection: ...


@dataclass(frozen=True)
class _ResidualBlocks:
    block: Callable[[Contraction], ResidualBlock]
    options: Mapping[str, Any]

    def conv(self, channels: int, size: tuple[int, int], first: bool, hidden: int) -> Bijection:
        return self.block(LipschitzConvNet(channels, hidden, size, preactivation=not first, **self.options))

    def dense(self, features: int, hidden: int) -> Bijection:
        return self.block(LipschitzMLP(features, (hidden, hidden), **self.options))


class _Couplings:
    """Builds couplings that swap the two parts from one to the next.

    Args:
        size: height and width before the first squeeze, where partitions are checkerboards.
        linear: whether a linear map precedes each coupling.
    """

    def __init__(self, size: tuple[int, ...], linear: bool) -> None:
        self.size, self.linear = size, linear
        self.swap = itertools.cycle((False, True))

    def conv(self, channels: int, size: tuple[int, int], first: bool, hidden: int) -> Bijection:
        swap = next(self.swap)
        unsqueezed = size == self.size
        part: Partition = Checkerboard((channels, *size), swap) if unsqueezed else halves(channels, swap)
        return self._coupling(channels, part, ConvNet(part.seen, 2 * part.changed, hidden))

    def dense(self, features: int, hidden: int) -> Bijection:
        part = halves(features, next(self.swap))
        return self._coupling(features, part, MLP(part.seen, 2 * part.changed, (hidden, hidden)))

    def _coupling(self, channels: int, part: Partition, conditioner: nn.Module) -> Bijection:
        coupling = Coupling(part, conditioner)
        return Chain([PLULinear(channels), coupling]) if self.linear and channels > 1 else coupling


def _vector_levels(features: int, blocks: Sequence[int], dense: Callable[[int], Bijection]) -> Chain:
    levels: list[Bijection] = []
    for index, count in enumerate(blocks):
        chain: list[Bijection] = [] if index else [ActNorm(features)]
        for _ in range(count):
            chain += [dense(features), ActNorm(features)]
        levels.append(Chain(chain))
    return Chain(levels)


def _channels(channels: int, levels: int) -> list[int]:
    """Number of channels at the end of each level; all levels but the last end with a squeeze."""
    return [channels * 4 ** min(level + 1, levels - 1) for level in range(levels)]


def _conv_branch(channels: int, features: int) -> nn.Module:
    convolution = nn.Conv2d(channels, features, 3, padding=1)
    return nn.Sequential(convolution, ActNorm(features), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _dense_branch(channels: int, features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, features), ActNorm(features), nn.ReLU())


_PAPER = "Chen et al. 2019"
_SMALL = {"blocks": (1, 1), "hidden": 4, "dense_blocks": 1, "dense_hidden": 4, "branch_features": 4}
_named = partial(Architecture, small={(3,): _SMALL, (2, 4, 4): _SMALL})
_paper = partial(hybrid, blocks=(16, 16, 16), hidden=512, dense_blocks=0)

#: Name → architecture. Names with a data set are the models of the paper's Appendix E, which have the blocks of the
#: density models without dense blocks. The authors' code has no command for hybrid models; its defaults add four dense
#: blocks of width 128.
HYBRIDS: dict[str, Architecture] = {
    "hybrid": _named(hybrid, (1, 8, 8), f"{_PAPER}: hybrid model, density and classifier; vectors and images on a CPU"),
    "hybrid_mnist": _named(_paper, (1, 28, 28), f"{_PAPER}: hybrid model for MNIST"),
    "hybrid_svhn": _named(_paper, (3, 32, 32), f"{_PAPER}: hybrid model for SVHN"),
    "hybrid_cifar10": _named(_paper, (3, 32, 32), f"{_PAPER}: hybrid model for CIFAR-10"),
}
