"""Second derivatives: right for every way to compute gradients, or refused with an explanation."""

from __future__ import annotations

import pytest
import torch

import contraflow as cf
from contraflow.errors import ConfigurationError
from contraflow.logdet import GRADIENTS, LogDetEstimator
from contraflow.logdet.estimators import Estimate

ROUTES = pytest.mark.parametrize("route", GRADIENTS)


def central_differences(function, x, step=1e-4):
    """The Hessian of a scalar function at x ``(D,)``."""
    basis = step * torch.eye(len(x))
    rows = [
        [function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b) for b in basis]
        for a in basis
    ]
    with torch.no_grad():
        return torch.tensor(rows) / (4 * step**2)


def bent_flow(**options):
    """A flow far from its initialisation, with large second derivatives."""
    flow = cf.residual_flow((2,), blocks=2, hidden=(16, 16), **options)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    flow.log_prob(torch.randn(50, 2))
    return flow


@ROUTES
@pytest.mark.parametrize("activation", ["lipswish", "concatenated_sine"])
def test_the_hessian_of_an_exact_density(route, activation):
    flow = bent_flow(logdet=cf.Exact(), gradient=route, activation=activation)

    def log_prob(x):
        return flow.log_prob(x[None])[0]

    x = torch.tensor([0.4, -0.7])
    truth = central_differences(lambda y: log_prob(y).detach(), x)
    torch.testing.assert_close(torch.autograd.functional.hessian(log_prob, x), truth, rtol=1e-4, atol=1e-5)


@ROUTES
@pytest.mark.parametrize("estimator", [cf.TRAINING, cf.PowerSeries(3), cf.AdaptiveRoulette()], ids=str)
def test_the_hessian_of_an_estimate_is_that_of_its_value_with_the_same_draws(route, estimator):
    flow = bent_flow(logdet=estimator, gradient=route).eval()

    def log_prob(x):
        return flow.log_prob(x.reshape(2, 2), generator=torch.Generator().manual_seed(4)).sum()

    x = torch.randn(4)
    truth = central_differences(lambda y: log_prob(y).detach(), x)
    torch.testing.assert_close(torch.autograd.functional.hessian(log_prob, x), truth, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "images", "idensenet", "module"])
def test_score_matching_has_the_gradient_of_its_loss(name):
    """∂/∂θ ½‖∂ log p/∂x‖² by two calls of autograd, against differences of the loss itself."""
    torch.manual_seed(3)
    flow = {
        "residual": lambda: cf.residual_flow((3,), blocks=2, hidden=(8, 8), logdet=cf.Exact()),
        "images": lambda: cf.residual_flow_images(
            (1, 4, 4), blocks=(1,), hidden=4, dense_hidden=4, logdet=cf.PowerSeries(3)
        ),
        "idensenet": lambda: cf.idensenet((3,), blocks=1, growth=4, logdet=cf.Exact()),
        "module": lambda: cf.Flow((3,), cf.ResidualBlock(_halved_tanh(), logdet=cf.Exact())),
    }[name]()
    x = torch.randn(4, *flow.event_shape)
    flow.log_prob(x)
    parameters = list(flow.parameters())

    def loss():
        y = x.clone().requires_grad_()
        log_prob = flow.log_prob(y, generator=torch.Generator().manual_seed(0))
        (score,) = torch.autograd.grad(log_prob.sum(), y, create_graph=True)
        return 0.5 * score.square().sum()

    grads = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((a * b).sum() for a, b in zip(grads, direction, strict=True)).item()
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            for parameter, towards in zip(parameters, direction, strict=True):
                parameter.add_(step * towards)
        values.append(loss().item())
        with torch.no_grad():
            for parameter, towards in zip(parameters, direction, strict=True):
                parameter.sub_(step * towards)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=2e-4)


def _halved_tanh():
    return cf.ModuleContraction(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), _Scaled()), 0.9)


class _Scaled(torch.nn.Module):
    def forward(self, x):
        return 0.3 * x


@ROUTES
def test_a_block_used_twice_in_a_graph(route):
    """The second x depends on the weights of the block, whose gradient must not be counted twice."""
    block = cf.ResidualBlock(cf.lipschitz.LipschitzMLP(2, (8, 8)), logdet=cf.Exact(), gradient=route)
    with torch.no_grad():
        for layer in block.g.layers:
            layer.weight.mul_(3)
    flow = cf.Flow((2,), cf.Chain([block, block]))
    weight = block.g.layers[1].weight
    x = torch.randn(5, 2)

    def loss():
        y = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(flow.log_prob(y).sum(), y, create_graph=True)
        return score.square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight.add_(step * direction)
        values.append(loss().item())
        with torch.no_grad():
            weight.sub_(step * direction)
    assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3)


def test_third_derivatives_of_a_density():
    flow = bent_flow(logdet=cf.Exact())
    x = torch.tensor([[0.2, -0.3]], requires_grad=True)
    v = torch.tensor([[1.0, 0.5]])

    def along(order, at):
        value = flow.log_prob(at).sum()
        for _ in range(order):
            (gradient,) = torch.autograd.grad(value, at, create_graph=True)
            value = (gradient * v).sum()
        return value

    def second(step):
        return along(2, (x + step * v).detach().requires_grad_()).item()

    truth = (second(1e-4) - second(-1e-4)) / 2e-4
    assert along(3, x).item() == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cf.residual_flow((2,), blocks=2, hidden=(16, 16)),
        lambda: cf.residual_flow((2,), blocks=1, hidden=(8, 8), norms=cf.lipschitz.MixedNorms((3, 2, 2.5, 3))),
        lambda: cf.idensenet((2,), blocks=1, growth=8),
        lambda: cf.architectures.planar((2,), layers=3),
        lambda: cf.architectures.sylvester((2,), layers=2),
        lambda: cf.architectures.naf((2,)),
        lambda: cf.architectures.ffjord((2,), tolerance=1e-9),
    ],
    ids=["residual", "mixed norms", "idensenet", "planar", "sylvester", "naf", "ffjord"],
)
def test_the_hessian_of_an_inverse(make):
    flow = make()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    flow.log_prob(torch.randn(50, 2))

    def square(z):
        return flow.inverse(z[None]).pow(3).sum()

    z = torch.tensor([0.5, -0.8])
    truth = central_differences(lambda y: square(y).detach(), z, step=1e-3)
    torch.testing.assert_close(torch.autograd.functional.hessian(square, z), truth, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_a_gradient_of_an_inverse_reaches_the_weights():
    flow = bent_flow(logdet=cf.Exact())
    z = torch.randn(3, 2)
    weight = next(parameter for name, parameter in flow.named_parameters() if name.endswith("layers.1.weight"))

    def loss():
        start = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(flow.inverse(start).square().sum(), start, create_graph=True)
        return gradient.square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            weight.add_(step * direction)
        values.append(loss().item())
        with torch.no_grad():
            weight.sub_(step * direction)
    assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)


def test_third_derivatives_of_an_inverse_are_refused():
    flow = bent_flow()
    z = torch.randn(1, 2, requires_grad=True)
    (first,) = torch.autograd.grad(flow.inverse(z).pow(3).sum(), z, create_graph=True)
    with pytest.raises(ConfigurationError, match="no third"):
        torch.autograd.grad(first.sum(), z, create_graph=True)


class Homemade(LogDetEstimator):
    """A custom estimator that cannot repeat its draws."""

    def estimate(self, linearize, x, generator=None):
        return Estimate(*cf.Exact().estimate(linearize, x, generator)[:4])

    def __str__(self):
        return "homemade"


@pytest.mark.parametrize("route", ["dual", "kept", "neumann", "backward_in_forward"])
def test_an_estimator_without_second_derivatives_names_an_alternative(route):
    flow = bent_flow(logdet=Homemade(), gradient=route)
    x = torch.randn(2, 2, requires_grad=True)
    torch.autograd.grad(flow.log_prob(x).sum(), x)
    with pytest.raises(ConfigurationError, match=r"with_logdet\(Exact\(\)\)"):
        torch.autograd.grad(flow.log_prob(x).sum(), x, create_graph=True)


@ROUTES
@pytest.mark.parametrize("estimator", [cf.Exact(), cf.TRAINING], ids=str)
def test_frozen_weights_under_every_route(route, estimator):
    """No gradient at all, that to x alone, and those of half of the weights."""
    flow = bent_flow(logdet=estimator, gradient=route)
    x = torch.randn(5, 2)

    def log_prob(y):
        return flow.log_prob(y, generator=torch.Generator().manual_seed(1)).sum()

    names = [name for name, _ in flow.named_parameters()]
    y = x.clone().requires_grad_()
    whole = dict(zip(names, torch.autograd.grad(log_prob(y), list(flow.parameters())), strict=True))
    (to_x,) = torch.autograd.grad(log_prob(y), y)
    flow.requires_grad_(False)
    assert not log_prob(x).requires_grad
    torch.testing.assert_close(torch.autograd.grad(log_prob(y), y)[0], to_x)
    for index, parameter in enumerate(flow.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    log_prob(x).backward()
    for name, parameter in flow.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, whole[name])
        else:
            assert parameter.grad is None


@ROUTES
def test_gradients_with_and_without_create_graph_are_equal(route):
    """A scale depends on its weight, and x on the weights of a block that is used twice: nothing counts twice."""
    block = cf.ResidualBlock(cf.lipschitz.LipschitzMLP(2, (8, 8)), logdet=cf.Exact(), gradient=route)
    with torch.no_grad():
        for layer in block.g.layers:
            layer.weight.mul_(3)
    flow = cf.Flow((2,), cf.Chain([block, block]))
    x = torch.randn(5, 2, requires_grad=True)
    inputs = [x, *flow.parameters()]
    plain = torch.autograd.grad(flow.log_prob(x).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(flow.log_prob(x).sum(), inputs, create_graph=True), plain)
