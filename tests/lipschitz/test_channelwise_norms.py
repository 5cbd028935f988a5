"""Rows (p = ∞) and columns (p = 1) divided each by its own norm: the scale, its gradient, its certificate."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_certified_norms import largest_quotient
from torch import Tensor

from contraflow import Exact, Flow, ResidualBlock, rescale_to_certificate, residual_flow, residual_flow_images
from contraflow.bijections import Chain
from contraflow.errors import DomainError
from contraflow.lipschitz import (
    ChannelwiseNorm,
    InducedNorm,
    LipschitzConv2d,
    LipschitzConvNet,
    LipschitzLayer,
    LipschitzLinear,
    LipschitzMLP,
    MixedNorms,
    norm_between,
    update_lipschitz,
)
from contraflow.lipschitz.norms import FixedOrders
from contraflow.logdet import GRADIENTS
from contraflow.testing import check_bijection
from contraflow.training.average import with_weights

INF = math.inf
PAIRS = [(INF, INF), (1.0, 1.0), (2.0, INF), (1.0, 2.0), (1.5, INF), (1.0, 3.0), (1.0, INF)]
NAMES = [f"{p:g} → {q:g}" for p, q in PAIRS]


def layers(module: torch.nn.Module) -> list[LipschitzLayer]:
    return [one for one in module.modules() if isinstance(one, LipschitzLayer)]


def reference_scale(matrix: Tensor, p: float, q: float, c: float) -> Tensor:
    """1 / max(1, norm/c) of every row of the operator's matrix, of every column for p = 1; plainly."""
    if p == 1:
        return (torch.linalg.vector_norm(matrix, q, dim=0) / c).clamp_min(1).reciprocal()
    return (torch.linalg.vector_norm(matrix, 1 / (1 - 1 / p), dim=1) / c).clamp_min(1).reciprocal()


def matrix_of(layer: LipschitzLayer, weight: Tensor) -> Tensor:
    """W as a matrix over all pixels."""
    if isinstance(layer, LipschitzLinear):
        return weight
    basis = torch.eye(weight.shape[1] * layer.size[0] * layer.size[1]).reshape(-1, weight.shape[1], *layer.size)
    return torch.nn.functional.conv2d(basis, weight, padding=weight.shape[-1] // 2).flatten(1).T


def test_every_row_reaches_the_bound():
    """The rows of the audit: 24, 4.3, 1.8, 2.4."""
    rows = torch.tensor([24.0, 4.3, 1.8, 2.4, 0.5])
    weight = torch.randn(5, 7)
    layer = LipschitzLinear(7, 5, 0.98, ChannelwiseNorm(INF, INF))
    with torch.no_grad():
        layer.weight.copy_(weight * (rows / weight.abs().sum(dim=1))[:, None])
    expected = torch.tensor([0.98, 0.98, 0.98, 0.98, 0.5])
    torch.testing.assert_close(layer.normalised().abs().sum(dim=1), expected, rtol=1e-11, atol=0)
    assert layer.scale().shape == (5, 1)
    assert layer.sigma().item() == pytest.approx(24)
    assert layer.certify() == pytest.approx(0.98, rel=1e-11)
    assert layer.normalised_sigma().item() == pytest.approx(0.98, rel=1e-11)


LAYERS = {
    "dense": lambda norm: LipschitzLinear(4, 6, 0.7, norm),
    "3×3": lambda norm: LipschitzConv2d(3, 2, 3, (4, 5), 0.7, norm),
    "3×3 at 2×3": lambda norm: LipschitzConv2d(2, 3, 3, (2, 3), 0.7, norm),
    "5×5 at 2×1": lambda norm: LipschitzConv2d(2, 3, 5, (2, 1), 0.7, norm),
    "1×1": lambda norm: LipschitzConv2d(3, 4, 1, (3, 3), 0.7, norm),
}


def make_layer(kind: str, pair: tuple[float, float]) -> LipschitzLayer:
    """Some channels far above c, some below."""
    layer = LAYERS[kind](ChannelwiseNorm(*pair))
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))
        layer.weight[0] *= 0.05
        layer.weight[:, 0] *= 0.2
    return layer


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_scale_and_its_gradient_are_those_of_the_operators_matrix(kind, pair):
    """Against plain vector norms of the matrix over all pixels; the largest over the pixels of a channel."""
    layer = make_layer(kind, pair)
    dim = 1 if pair[0] == 1 else 0
    weight = layer.weight.detach().clone().requires_grad_()
    by_pixel = reference_scale(matrix_of(layer, weight), *pair, layer.bound)
    expected = by_pixel.unflatten(0, (weight.shape[dim], -1)).amin(dim=1)
    scale = layer.scale()
    assert scale.shape == tuple(len_ if axis == dim else 1 for axis, len_ in enumerate(weight.shape))
    torch.testing.assert_close(scale.flatten(), expected, rtol=1e-11, atol=0)
    cotangent = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(scale.flatten(), layer.weight, cotangent)
    (theirs,) = torch.autograd.grad(expected, weight, cotangent)
    # Where pixels tie, the two may share the gradient among taps that are zero padding alike.
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_certificate_is_exact_and_leaves_the_layer_alone(kind, pair, dtype):
    layer = make_layer(kind, pair).to(dtype)
    for certified in (False, True):
        update_lipschitz(layer, certified=certified)
        bound = layer.certify()
        assert layer.bound * (1 - 1e-5) < bound <= layer.bound
        assert layer.norm.estimate(layer.operator(layer.normalised()), layer.v) == pytest.approx(bound, rel=1e-11)
    assert layer.excess == 1
    before = layer.weight.clone()
    assert rescale_to_certificate(layer) == 0
    assert torch.equal(layer.weight, before)


def test_wide_float32_layers_stay_within_their_bound():
    for norm in (ChannelwiseNorm(INF, INF), ChannelwiseNorm(1, 1), ChannelwiseNorm(2, INF)):
        layer = LipschitzLinear(3000, 700, 0.98, norm)
        with torch.no_grad():
            layer.weight.normal_()
        layer.float()
        assert 0.98 * (1 - 1e-3) < layer.certify() <= 0.98


NETS = {
    "∞, dense": lambda: LipschitzMLP(3, (5, 4), norms=MixedNorms((INF,) * 4)),
    "1, dense": lambda: LipschitzMLP(3, (5, 4), norms=MixedNorms((1,) * 4)),
    "1 → 2 → ∞ → 1, dense": lambda: LipschitzMLP(3, (5, 4), norms=MixedNorms((1, 2, INF, 1))),
    "∞, conv": lambda: LipschitzConvNet(2, 3, (3, 2), norms=MixedNorms((INF,) * 4)),
    "1, conv": lambda: LipschitzConvNet(2, 3, (3, 2), norms=MixedNorms((1,) * 4)),
}


def steep_net(name: str) -> LipschitzMLP | LipschitzConvNet:
    g = NETS[name]()
    with torch.no_grad():
        for layer in layers(g):
            layer.weight.mul_(3)
            layer.weight[0] *= 0.1
    return g


def data_for(g: LipschitzMLP | LipschitzConvNet, rows: int = 3) -> Tensor:
    return torch.randn(rows, 3) if isinstance(g, LipschitzMLP) else torch.randn(rows, 2, 3, 2)


@pytest.mark.parametrize("route", [route for route in GRADIENTS if route not in ("series", "neumann")])
@pytest.mark.parametrize("name", NETS)
def test_every_gradient_route_is_plain_double_backward(name, route):
    """Unequal weights; through the scales of all rows and columns."""
    g = steep_net(name)
    x, weights = data_for(g), torch.tensor([1.0, -2.0, 3.0])

    def gradients(name: str) -> tuple[Tensor, ...]:
        z, logdet = ResidualBlock(g, Exact(), gradient=name).forward_and_logdet(x)
        loss = (weights * logdet).sum() + (weights[:, None] * z.flatten(1).square()).sum()
        return torch.autograd.grad(loss, list(g.parameters()))

    for (label, _), ours, plain in zip(g.named_parameters(), gradients(route), gradients("series"), strict=True):
        torch.testing.assert_close(ours, plain, msg=lambda text, label=label: f"{label}: {text}")


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_the_value_is_that_of_finite_differences(name):
    g = steep_net(name)
    x = data_for(g)
    parameters = dict(g.named_parameters())

    def value(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(g, dict(zip(parameters, tensors, strict=True)), (x,))

    assert torch.autograd.gradcheck(value, tuple(one.detach().clone().requires_grad_() for one in parameters.values()))


@pytest.mark.parametrize("name", [name for name in NETS if "2" not in name])
def test_an_ensemble_under_vmap_is_its_members(name):
    members = [steep_net(name) for _ in range(3)]
    x = data_for(members[0])
    stack, buffers = torch.func.stack_module_state(members)
    together = torch.func.vmap(lambda p, b: torch.func.functional_call(members[0], (p, b), (x,)))(stack, buffers)
    torch.testing.assert_close(together, torch.stack([g(x) for g in members]))


@pytest.mark.parametrize("name", NETS)
def test_blocks_keep_the_laws_and_no_attack_beats_the_bound(name):
    g = steep_net(name)
    check_bijection(ResidualBlock(g), data_for(g), atol=1e-9, fresh=lambda: ResidualBlock(steep_net(name)))
    p = g.norm_order
    found = largest_quotient(g, tuple(data_for(g).shape[1:]), p)
    assert 0.005 < found <= g.lipschitz_bound() <= 0.98**3
    exact = all(isinstance(layer.norm, ChannelwiseNorm) for layer in layers(g))
    assert g.lipschitz_estimate() == pytest.approx(g.lipschitz_bound(), rel=1e-9 if exact else 0.1)


def test_an_adversary_attains_the_bound():
    """Positive weights: all rows at c in both layers, and x along the ones."""
    g = LipschitzMLP(3, (4,), activation="softplus", preactivation=False, norms=MixedNorms((INF,) * 3))
    with torch.no_grad():
        for layer in layers(g):
            layer.weight.copy_(1 + torch.rand_like(layer.weight) * 5)
            layer.bias.zero_()
    x = torch.full((1, 3), 50.0)
    quotient = (g(x + 1) - g(x)).abs().max().item()
    assert quotient == pytest.approx(g.lipschitz_bound(), rel=1e-6)


@pytest.mark.parametrize("order", [INF, 1.0])
def test_state_dict_copy_average_and_float32(order):
    def make() -> Flow:
        norms = MixedNorms((order,) * 4)
        return residual_flow_images((1, 4, 4), blocks=(1, 1), hidden=4, dense_blocks=1, dense_hidden=4, norms=norms)

    flow, x = make(), torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        for layer in layers(flow):
            layer.weight.mul_(4)
    z = flow.forward(x).detach()
    fresh = make()
    fresh.load_state_dict(flow.state_dict(), strict=True)
    assert not any("scale" in name.split(".")[-1] and "log" not in name for name in flow.state_dict())
    assert torch.equal(fresh.forward(x), z)
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        for layer in layers(twin):
            layer.weight.data.mul_(1.3).add_(0.1)  # leaves no version behind
    assert not torch.equal(twin.forward(x), z)
    certificate = twin.certify()
    assert certificate.within_target
    assert {one.method for block in certificate.blocks for one in block.layers} == {
        "largest row, exact" if order == INF else "largest column, exact"
    }
    averaged = with_weights(flow, {name: one.detach() for name, one in flow.named_parameters()})
    for ours, theirs in zip(averaged.parameters(), flow.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # nothing to rescale
    single = copy.deepcopy(flow).float()
    assert single.certify().within_target
    torch.testing.assert_close(single.forward(x.float()).double(), z, rtol=1e-4, atol=1e-4)


def test_training_keeps_every_layer_certified_without_certified_updates():
    torch.manual_seed(0)
    flow = residual_flow((2,), blocks=2, hidden=(8, 8), norms=MixedNorms((INF,) * 4), logdet=Exact())
    x = torch.randn(64, 2) * torch.tensor([1.0, 0.2])
    optimiser, losses = torch.optim.Adam(flow.parameters(), lr=0.05), []
    for _ in range(20):
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
        assert flow.certify().within_target
    assert losses[-1] < losses[0] - 0.03


def test_fixed_closed_orders_are_channelwise_and_others_are_not():
    orders = FixedOrders((INF, INF, 2.0, 1.0, 3.0, INF))
    norms = [norm_between(orders, index) for index in range(5)]
    assert [isinstance(norm, ChannelwiseNorm) for norm in norms] == [True, False, False, True, True]
    assert [norm.orders() for norm in norms][3:] == [(1.0, 3.0), (3.0, INF)]
    with pytest.raises(DomainError, match="take ChannelwiseNorm"):
        InducedNorm(orders, 0)
    with pytest.raises(DomainError, match="from p=2 to q=3 has no rows or columns"):
        ChannelwiseNorm(2, 3)


def test_a_flow_without_weights_has_no_nan():
    flow = Flow((3,), Chain([ResidualBlock(NETS["∞, dense"](), Exact())]))
    with torch.no_grad():
        for layer in layers(flow):
            layer.weight.zero_()
    flow.log_prob(torch.randn(2, 3)).sum().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in flow.parameters())
    assert flow.certify().blocks[0].bound == 0
