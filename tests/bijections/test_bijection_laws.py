"""The conformance tests on every bijection, every kind of g, and every architecture at a small size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from contraflow import ARCHITECTURES, Bijection, Chain, ModuleContraction, ResidualBlock, residual_flow
from contraflow.bijections import (
    ActNorm,
    Affine,
    Flatten,
    ImplicitBlock,
    Inverse,
    Logit,
    MonotoneBlock,
    MultiScale,
    Permutation,
    Squeeze,
)
from contraflow.lipschitz import ACTIVATIONS, LipschitzConvNet, LipschitzLayer, LipschitzMLP
from contraflow.logdet import GRADIENTS
from contraflow.numerics import Anderson, Picard
from contraflow.testing import check_bijection

Case = tuple[Callable[[], Bijection], tuple[int, ...]]


def steep(module: nn.Module) -> nn.Module:
    """Weights far above the bound, so that they are normalised and the log-determinant is far from zero."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.mul_(4)
    return module


def dense(**options) -> LipschitzMLP:
    return steep(LipschitzMLP(3, (8, 8), bound=0.9, **options))


def conv(**options) -> LipschitzConvNet:
    return steep(LipschitzConvNet(2, 4, (4, 4), bound=0.9, **options))


def own_module() -> ModuleContraction:
    linear = nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.mul_(0.9 / torch.linalg.matrix_norm(linear.weight, 2))
    return ModuleContraction(nn.Sequential(linear, nn.Tanh()), 0.9)


CASES: dict[str, Case] = {
    "actnorm, vectors": (lambda: ActNorm(3), (3,)),
    "actnorm, images": (lambda: ActNorm(2), (2, 4, 4)),
    "affine": (lambda: Affine(torch.tensor([1.0, -2.0]), torch.tensor([0.5, -3.0])), (2,)),
    "affine, images": (lambda: Affine(torch.zeros(2, 1, 1), torch.tensor([[[0.5]], [[3.0]]])), (2, 4, 4)),
    "chain": (lambda: Chain([ActNorm(3), Permutation([2, 0, 1]), ResidualBlock(dense())]), (3,)),
    "empty chain": (lambda: Chain([]), (3,)),
    "flatten": (lambda: Flatten((2, 4, 4)), (2, 4, 4)),
    "inverse of a block": (lambda: Inverse(ResidualBlock(dense())), (3,)),
    "inverse of flatten": (lambda: Inverse(Flatten((2, 2, 2))), (8,)),
    "logit": (lambda: Logit(0.05), (3,)),
    "logit, alpha of MNIST": (lambda: Logit(1e-6), (3,)),
    "multi-scale": (
        lambda: MultiScale(
            [Chain([ActNorm(2), Squeeze()]), Chain([ResidualBlock(steep(LipschitzConvNet(4, 4, (2, 2))))])],
            [(8, 2, 2), (4, 2, 2)],
        ),
        (2, 4, 4),
    ),
    "permutation": (lambda: Permutation([1, 2, 0]), (3,)),
    "squeeze": (lambda: Squeeze(), (2, 4, 4)),
    "block, own module": (lambda: ResidualBlock(own_module()), (3,)),
    "block, picard": (lambda: ResidualBlock(dense(), inverse=Picard()), (3,)),
    "block, anderson without memory to speak of": (lambda: ResidualBlock(dense(), inverse=Anderson(memory=1)), (3,)),
    "block, kernels 3-3": (lambda: ResidualBlock(conv(kernels=(3, 3))), (2, 4, 4)),
    "block, kernels 1-1": (lambda: ResidualBlock(conv(kernels=(1, 1))), (2, 4, 4)),
    "block, one grey channel": (lambda: ResidualBlock(steep(LipschitzConvNet(1, 4, (4, 4)))), (1, 4, 4)),
    "block, images of unequal sides": (lambda: ResidualBlock(steep(LipschitzConvNet(1, 4, (3, 5)))), (1, 3, 5)),
    "implicit block": (lambda: ImplicitBlock(dense(), dense()), (3,)),
    "implicit block, images, own solver": (lambda: ImplicitBlock(conv(), conv(), inverse=Picard()), (2, 4, 4)),
    "inverse of an implicit block": (lambda: Inverse(ImplicitBlock(dense(), dense())), (3,)),
    "monotone block, own module": (lambda: MonotoneBlock(own_module()), (3,)),
    "monotone block, images, own solver": (lambda: MonotoneBlock(conv(), inverse=Picard()), (2, 4, 4)),
    "inverse of a monotone block": (lambda: Inverse(MonotoneBlock(dense())), (3,)),
    "one-dimensional flow": (lambda: residual_flow((1,), blocks=2, hidden=(4,)).bijection, (1,)),
}
for _name in ACTIVATIONS:
    for _first in (True, False):
        _start = "pre-activation" if _first else "weight first"
        CASES[f"block, dense {_name}, {_start}"] = (
            lambda name=_name, first=_first: ResidualBlock(dense(activation=name, preactivation=first)),
            (3,),
        )
        CASES[f"block, conv {_name}, {_start}"] = (
            lambda name=_name, first=_first: ResidualBlock(conv(activation=name, preactivation=first)),
            (2, 4, 4),
        )
for _name in GRADIENTS:
    CASES[f"block, {_name} gradient"] = (lambda name=_name: ResidualBlock(dense(), gradient=name), (3,))
    CASES[f"monotone block, {_name} gradient"] = (lambda name=_name: MonotoneBlock(dense(), gradient=name), (3,))


def samples(name: str, shape: tuple[int, ...]) -> Tensor:
    x = torch.randn(3, *shape)
    # Away from the ends, where log|det| has slopes that central differences do not follow.
    return x.sigmoid() if name.startswith("logit") else x


@pytest.mark.parametrize("name", CASES)
def test_every_bijection_satisfies_the_laws(name):
    make, shape = CASES[name]
    check_bijection(make(), samples(name, shape), atol=1e-9, fresh=make)


SMALL = [(name, shape) for name, architecture in ARCHITECTURES.items() for shape in architecture.small]


@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_every_architecture_satisfies_the_laws_at_a_small_size(name, shape):
    architecture = ARCHITECTURES[name]
    if architecture.extra is not None:
        pytest.importorskip(architecture.extra, reason=f"the extra {architecture.extra} is not installed")
    assert len(architecture.event_shape) in map(len, architecture.small), "no small size for its own kind of shape"

    def make() -> Bijection:
        return steep(architecture(shape, **architecture.small[shape]).bijection)

    check_bijection(make(), torch.randn(3, *shape), atol=1e-9, float32_atol=3e-3, fresh=make)
