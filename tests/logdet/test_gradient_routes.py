"""Five routes, one gradient: under unequal weights, a zero first weight, frozen parameters, and x with and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from contraflow import Exact, ModuleContraction, PowerSeries, RussianRoulette
from contraflow.lipschitz import ACTIVATIONS, LipschitzConvNet, LipschitzLayer, LipschitzMLP
from contraflow.logdet import GRADIENTS, Contraction, Geometric, LogDetEstimator, Poisson
from contraflow.logdet.estimators import Estimate, roulette
from contraflow.logdet.probes import Gaussian

WEIGHTS = {
    "equal": torch.ones(4),
    "unequal": torch.tensor([1.0, -2.0, 3.0, 0.5]),
    "first zero": torch.tensor([0.0, 1.0, 2.0, 5.0]),
    "all zero": torch.zeros(4),
}


def contraction(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    if kind == "module":
        module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        return ModuleContraction(module, 0.95), torch.randn(4, 3)
    activation = {"elu": "elu", "sine": "concatenated_sine", "conv, sine": "concatenated_sine"}.get(kind, "lipswish")
    options = {"bound": 0.9, "activation": activation, "preactivation": kind != "weight first"}
    images = kind.startswith("conv")
    g = LipschitzConvNet(2, 4, (3, 3), **options) if images else LipschitzMLP(3, (6, 6), **options)
    with torch.no_grad():
        for layer in g.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.mul_(4)
    return g, torch.randn(4, 2, 3, 3) if images else torch.randn(4, 3)


KINDS = ["dense", "elu", "weight first", "sine", "conv", "conv, sine", "module"]


def gradients(
    route: str, g: Contraction, estimator, x: Tensor, weights: Tensor, *, with_x: bool = True
) -> list[Tensor]:
    """Value, then gradients of Σ s_i logdet_i + Σ cos(z) in x and all parameters."""
    start = x.clone().requires_grad_(with_x)
    gx, logdet = GRADIENTS[route](g, estimator, start, torch.Generator().manual_seed(7))
    loss = (weights * logdet).sum() + gx.cos().sum()
    asked = [one for one in (start, *g.parameters()) if one.requires_grad]
    found = torch.autograd.grad(loss, asked, allow_unused=True)
    grads = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(asked, found, strict=True)]
    return [gx.detach(), logdet.detach(), *grads]


def agree(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("route", ["dual", "kept", "neumann", "backward_in_forward"])
def test_all_routes_agree_with_double_backward_through_the_exact_determinant(kind, weights, route):
    g, x = contraction(kind)
    agree(gradients(route, g, Exact(), x, WEIGHTS[weights]), gradients("series", g, Exact(), x, WEIGHTS[weights]))


ESTIMATORS = [
    RussianRoulette(),
    RussianRoulette(Geometric(0.5), 1, Gaussian(), probes=2),
    RussianRoulette(Poisson(1.0), 0),
    PowerSeries(3, probes=2),
    PowerSeries(1),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["unequal", "first zero"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_neumann_routes_agree_draw_by_draw(kind, weights, estimator):
    g, x = contraction(kind)
    dual, *others = (
        gradients(route, g, estimator, x, WEIGHTS[weights])
        for route in ("dual", "kept", "neumann", "backward_in_forward")
    )
    for other in others:
        agree(dual, other)


@dataclass(frozen=True, eq=False)
class Given(LogDetEstimator):
    """Given numbers of terms and given probes."""

    terms: Tensor
    probes: Tensor

    def estimate(self, linearize, x: Tensor, generator: torch.Generator | None = None) -> Estimate:
        return roulette(linearize, x, self.probes, self.terms, lambda longest: [1.0] * longest)

    def __str__(self) -> str:
        return "given"


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("route", ["dual", "kept", "neumann", "backward_in_forward"])
def test_samples_come_back_from_the_order_of_their_terms(route, kind):
    """A batch against its samples one by one; the order is neither the identity nor its own inverse."""
    g, x = contraction(kind)
    terms, weights, probes = torch.tensor([4, 9, 6, 1]), torch.tensor([1.0, -2.0, 3.0, 0.5]), torch.randn(2, *x.shape)
    order = terms.argsort(descending=True)
    assert not torch.equal(order, order.argsort())
    gx, logdet, grad_x, *grads = gradients(route, g, Given(terms, probes), x, weights)
    alone = [
        gradients(route, g, Given(terms[i : i + 1], probes[:, i : i + 1]), x[i : i + 1], weights[i : i + 1])
        for i in range(len(x))
    ]
    for whole, parts in zip((gx, logdet, grad_x), zip(*(one[:3] for one in alone), strict=True), strict=True):
        agree([whole], [torch.cat(parts)])
    agree(grads, [sum(parts) for parts in zip(*(one[3:] for one in alone), strict=True)])


@pytest.mark.parametrize("route", GRADIENTS)
def test_all_routes_give_one_value_with_and_without_gradients(route):
    g, x = contraction("dense")
    values = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            gx, logdet = GRADIENTS[route](g, RussianRoulette(), x, torch.Generator().manual_seed(7))
        values += [gx.detach(), logdet.detach()]
        assert logdet.requires_grad == enabled
    agree(values[:2], values[2:])
    agree(values[:2], gradients("dual", g, RussianRoulette(), x, torch.ones(4))[:2])


@pytest.mark.parametrize("route", GRADIENTS)
@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("estimator", [Exact(), RussianRoulette(probes=2)], ids=str)
def test_a_second_backward_pass_over_one_graph_finds_what_the_first_left(route, kind, estimator):
    g, x = contraction(kind)
    x = x.requires_grad_()
    gx, logdet = GRADIENTS[route](g, estimator, x, torch.Generator().manual_seed(7))
    loss = (WEIGHTS["unequal"] * logdet).sum() + gx.cos().sum()
    asked = (x, *g.parameters())
    first = torch.autograd.grad(loss, asked, retain_graph=True)
    agree(first, torch.autograd.grad(loss, asked))


@pytest.mark.parametrize("route", GRADIENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_change_nothing_for_the_others(route, kind):
    """Each parameter frozen in turn, and each the only one that learns."""
    g, x = contraction(kind)
    names = [name for name, _ in g.named_parameters()]
    whole = gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"])
    found = dict(zip(names, whole[3:], strict=True))
    for name in names:
        for learning in ([one for one in names if one != name], [name]):
            for one, parameter in g.named_parameters():
                parameter.requires_grad_(one in learning)
            part = gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"])
            agree([*whole[:3], *(found[one] for one in learning)], part)


@pytest.mark.parametrize("route", GRADIENTS)
def test_everything_frozen_but_x(route):
    g, x = contraction("dense")
    whole = gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"])
    g.requires_grad_(False)
    agree(whole[:3], gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"]))


@pytest.mark.parametrize("route", GRADIENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_get_the_same_gradient_when_x_asks_for_none(route, kind):
    g, x = contraction(kind)
    whole = gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"])
    part = gradients(route, g, RussianRoulette(), x, WEIGHTS["unequal"], with_x=False)
    del whole[2]
    agree(whole, part)


class Bound:
    """A contraction at given tensors, so that gradcheck may vary them."""

    def __init__(self, g: Contraction, tensors: Sequence[Tensor]) -> None:
        self.g, self.given = g, tuple(tensors)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.given

    def __getattr__(self, name: str):
        return getattr(self.g, name)


@pytest.mark.parametrize("route", ["dual", "backward_in_forward"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_custom_functions_with_unequal_weights(route, kind):
    g, x = contraction(kind)
    x, weights = x[:3], torch.tensor([0.0, -2.0, 3.0])
    tensors = [one.detach().clone().requires_grad_() for one in g.tensors()]

    def loss(x: Tensor, *tensors: Tensor) -> Tensor:
        gx, logdet = GRADIENTS[route](Bound(g, tensors), Exact(), x, None)
        return (weights * logdet).sum() + gx.cos().sum()

    assert torch.autograd.gradcheck(loss, (x.clone().requires_grad_(), *tensors), fast_mode=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_of_the_dual_route_for_every_activation_in_full(activation):
    torch.manual_seed(4)
    g = LipschitzMLP(2, (3,), activation=activation)
    x = torch.randn(2, 2, requires_grad=True)
    tensors = [one.detach().clone().requires_grad_() for one in g.tensors()]

    def outputs(x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return GRADIENTS["dual"](Bound(g, tensors), Exact(), x, None)

    assert torch.autograd.gradcheck(outputs, (x, *tensors))


def test_the_dual_route_stores_nothing_of_hidden_width():
    g = LipschitzMLP(3, (500, 500))
    x = torch.randn(40, 3)
    sizes: list[int] = []
    weights = {tensor.untyped_storage().data_ptr() for tensor in g.tensors()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights and 40 in tensor.shape:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        GRADIENTS["dual"](g, RussianRoulette(), x, None)
    assert sizes
    assert max(sizes) <= x.numel()
