"""Contractions of a user's own: the three methods to implement, and the defaults of the others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from contraflow import Bijection, Chain, Exact, Flow, PowerSeries, ResidualBlock
from contraflow.lipschitz import ChannelwiseNorm, InducedNorm, LipschitzConv2d, LipschitzMLP, SpectralNorm
from contraflow.lipschitz.composition import NetworkTensors
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.lipschitz.norms import FixedOrders
from contraflow.logdet import GRADIENTS, Contraction
from contraflow.numerics import Anderson
from contraflow.testing import check_bijection


class Sine(nn.Module, Contraction):
    """g(x) = 0.8 sin(V x)/max(1, ‖V‖_F), with only the three abstract methods implemented."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(3, 3))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.raw / self.raw.norm().clamp_min(1),)

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        return 0.8 * torch.sin(x @ tensors[0].T)

    def lipschitz_bound(self) -> float:
        return 0.8


class OnceForManyCalls(Sine):
    """Counts the calls of `function`."""

    functions = 0

    def function(self, tensors: Sequence[Tensor]):
        self.functions += 1
        return super().function(tensors)


class InMaximumNorm(Sine):
    norm_order = math.inf


def test_three_methods_are_enough_for_a_bijection():
    check_bijection(ResidualBlock(Sine(), Exact()), torch.randn(4, 3))


@pytest.mark.parametrize("route", [name for name in GRADIENTS if name != "series"])
@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(4)], ids=str)
@pytest.mark.parametrize("wants_x", [True, False])
def test_every_route_has_the_gradient_of_plain_double_backward(route, estimator, wants_x):
    """Of the same draws: Exact and, with the Jacobian's own series, four terms of it under unequal weights."""
    g, x, weights = Sine(), torch.randn(5, 3, requires_grad=wants_x), torch.randn(5)

    def gradient(name: str, logdet) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        z, value = ResidualBlock(g, logdet, gradient=name).forward_and_logdet(x, generator=generator)
        asked = [*g.parameters(), *([x] if wants_x else [])]
        return list(torch.autograd.grad((weights * value).sum() + z.square().sum(), asked))

    if isinstance(estimator, Exact):
        expected = gradient("series", estimator)
    else:  # a truncated series differs from the truncated Neumann gradient, which all other routes share
        expected = gradient("neumann", estimator)
    torch.testing.assert_close(gradient(route, estimator), expected)


def test_the_inverse_calls_function_once_and_solves_in_the_norm_of_g():
    g = OnceForManyCalls()
    block = ResidualBlock(g, Exact(), Anderson())
    solution = block.solve(torch.randn(4, 3))
    assert solution.iterations.max() > 1
    assert g.functions == 1
    assert solution.order == 2
    assert ResidualBlock(InMaximumNorm(), Exact()).solve(torch.randn(4, 3)).order == math.inf


def test_an_abstract_method_that_is_missing_is_named():
    class Half(Contraction):
        def tensors(self) -> tuple[Tensor, ...]:
            return ()

    with pytest.raises(TypeError, match=r"lipschitz_bound.*value"):
        Half()


def test_named_tensors_are_flattened_in_order():
    flat = LipschitzMLP(2, (4, 5)).tensors()
    named = NetworkTensors.named(flat)
    assert [layer.weight.shape for layer in named.layers] == [(4, 2), (5, 4), (2, 5)]
    assert [layer.bias.shape for layer in named.layers] == [(4,), (5,), (2,)]
    assert all(layer.scale.shape == () for layer in named.layers)
    assert all(a is b for a, b in zip(named.flat(), flat, strict=True))


@pytest.mark.parametrize("preactivation", [True, False])
def test_passes_take_a_scale_for_every_row_of_a_weight(preactivation):
    g = LipschitzMLP(3, (4, 5), preactivation=preactivation)
    gain, layers = NetworkTensors.named([tensor.detach() for tensor in g.tensors()])
    rows = [layer._replace(scale=torch.rand(len(layer.weight), 1)) for layer in layers]
    flat = [tensor.requires_grad_() for tensor in NetworkTensors(gain, rows).flat()]
    x, t = torch.randn(2, 3, requires_grad=True), torch.randn(1, 2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, t, *tensors: g.dual(tensors, x, t), (x, t, *flat))


def test_norms_act_on_an_operator_without_a_layer():
    weight = torch.randn(5, 4)
    operator = LinearOperator(weight, lambda W, x: x @ W.mT, lambda W: W.mT)
    spectral, mixed, columns = SpectralNorm(), InducedNorm(FixedOrders((1.5, 1.0)), 0), ChannelwiseNorm(1.0, 3.0)
    v = spectral.search(operator, torch.randn(1, 4), 1e-14, 5000, thorough=True)
    torch.testing.assert_close(spectral.sigma(operator, v)[0], torch.linalg.matrix_norm(weight, 2))
    v = mixed.search(operator, torch.randn(1, 4), 1e-14, 5000, thorough=True)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
    torch.testing.assert_close(mixed.sigma(operator, v)[0], (signs @ weight).abs().pow(3).sum(dim=1).max() ** (1 / 3))
    torch.testing.assert_close(columns.sigma(operator, v)[0], torch.linalg.vector_norm(weight, 3, dim=0).max())
    torch.testing.assert_close(operator.adjoint()(torch.eye(5)), weight)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_stack_of_operators_has_the_estimate_of_each(kernel):
    layers = [LipschitzConv2d(2, 3, kernel, (4, 5)) for _ in range(3)]
    stack = layers[0].operators(torch.stack([layer.weight for layer in layers]))
    v = torch.cat([layer.v for layer in layers])
    torch.testing.assert_close(SpectralNorm().sigma(stack, v), torch.stack([layer.sigma() for layer in layers]))
    u = stack(v)
    each = torch.cat([layer.operator().adjoint()(one[None]) for layer, one in zip(layers, u, strict=True)])
    torch.testing.assert_close(stack.adjoint()(u), each)


class Rounded(Chain):
    def quantise(self, x: Tensor) -> Tensor:
        return x.round()


@pytest.mark.parametrize(("preprocessing", "whole"), [(None, False), (Rounded([]), True)])
def test_samples_are_quantised_by_the_preprocessing(preprocessing: Bijection | None, whole: bool):
    x = Flow((3,), Chain([]), preprocessing=preprocessing).sample(20)
    assert torch.equal(x, x.round()) == whole
