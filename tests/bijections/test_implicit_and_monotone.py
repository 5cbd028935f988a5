"""Implicit and monotone blocks: closed forms, estimators, bounds of both directions, gradients, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from contraflow import (
    EVALUATION,
    TRAINING,
    AdaptiveRoulette,
    Chain,
    Exact,
    Flow,
    InversionError,
    ModuleContraction,
    PowerSeries,
    RussianRoulette,
)
from contraflow.architectures import implicit_flow, monotone_flow
from contraflow.bijections import ActNorm, Affine, ImplicitBlock, Inverse, MonotoneBlock, ResidualBlock, invert
from contraflow.errors import ConfigurationError, DomainError
from contraflow.evaluation.series_decay import series_decay
from contraflow.lipschitz import LipschitzMLP, MixedNorms
from contraflow.lipschitz.soft_normalisation import lipschitz_layers
from contraflow.logdet import CAYLEY, GRADIENTS, LogDetEstimator, Poisson
from contraflow.numerics import Anderson, Picard
from contraflow.testing import check_unbiased


def steep(features: int = 3, **options) -> LipschitzMLP:
    g = LipschitzMLP(features, (16, 16), bound=0.97, activation="elu", **options)
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(5)
    return g


def linear(matrix: Tensor, bound: float = 0.99) -> ModuleContraction:
    layer = nn.Linear(len(matrix), len(matrix), bias=False)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return ModuleContraction(layer, bound)


def matrix(norm: float = 0.9, size: int = 4) -> Tensor:
    drawn = torch.randn(size, size)
    return norm * drawn / torch.linalg.matrix_norm(drawn, 2)


BLOCKS = {
    "implicit": lambda *options: ImplicitBlock(steep(), steep(), Exact(), *options),
    "monotone": lambda *options: MonotoneBlock(steep(), Exact(), *options),
}
ALL_BLOCKS = pytest.mark.parametrize("name", BLOCKS)
FLOWS = {
    "implicit": lambda **options: implicit_flow((2,), blocks=1, hidden=(16, 16), **options),
    "monotone": lambda **options: monotone_flow((2,), blocks=2, hidden=(16, 16), **options),
}
ALL_FLOWS = pytest.mark.parametrize("name", FLOWS)


def test_a_monotone_block_of_a_linear_map_is_its_cayley_transform():
    a, eye = matrix(), torch.eye(4)
    x = torch.randn(5, 4)
    z, logdet = MonotoneBlock(linear(a), Exact()).forward_and_logdet(x)
    cayley = (eye - a) @ torch.linalg.inv(eye + a)
    torch.testing.assert_close(z, x @ cayley.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(logdet, torch.linalg.slogdet(cayley).logabsdet.expand(5))


def test_an_implicit_block_of_linear_maps_is_their_quotient():
    a, b, eye = matrix(), matrix(), torch.eye(4)
    x = torch.randn(5, 4)
    z, logdet = ImplicitBlock(linear(a), linear(b), Exact()).forward_and_logdet(x)
    quotient = torch.linalg.inv(eye + b) @ (eye + a)
    torch.testing.assert_close(z, x @ quotient.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(logdet, torch.linalg.slogdet(quotient).logabsdet.expand(5))


UNBIASED = {
    "training": TRAINING,
    "evaluation": EVALUATION,
    "adaptive": AdaptiveRoulette(),
    "no exact terms": RussianRoulette(exact_terms=0),
    "one exact term, three probes": RussianRoulette(exact_terms=1, probes=3),
    "poisson": RussianRoulette(Poisson(2.0)),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_value_and_gradient_of_the_monotone_log_determinant_are_unbiased(name):
    """z-tests at a false-alarm rate of 1e-5 each case."""
    torch.manual_seed(4)
    g = ModuleContraction(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 0.7)
    with torch.no_grad():
        weight = torch.eye(3) + matrix(1.0, 3)
        g.module[0].weight.copy_(0.7 * weight / torch.linalg.matrix_norm(weight, 2))
    check_unbiased(UNBIASED[name], g, 0.3 * torch.randn(1, 3), determinant=CAYLEY, calls=120)


@pytest.mark.parametrize("route", GRADIENTS)
def test_every_route_is_unbiased_for_it(route):
    """z-tests at a false-alarm rate of 1e-5 each route."""
    torch.manual_seed(2)
    g = LipschitzMLP(3, (5,), bound=0.8)
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(4)
    check_unbiased(TRAINING, g, torch.randn(1, 3), gradient=route, determinant=CAYLEY, calls=100)


@pytest.mark.parametrize("terms", [3, 4])
def test_a_truncated_series_has_the_odd_terms_alone(terms):
    """For the linear J = aI with Rademacher probes, vᵀJᵏv = D aᵏ without noise."""
    a, x = 0.6, torch.zeros(2, 4)
    g = linear(a * torch.eye(4), 0.6)
    value = MonotoneBlock(g, PowerSeries(terms)).forward_and_logdet(x)[1]
    torch.testing.assert_close(value, torch.full((2,), -2 * 4 * (a + a**3 / 3)))
    slope = torch.autograd.grad(value.sum(), g.module.weight)[0]
    torch.testing.assert_close(slope.trace(), torch.tensor(-2 * 2 * 4 * (1 + a**2)), rtol=1e-9, atol=0.0)


def test_both_log_determinants_come_from_one_series():
    """As many products with Jᵀ as a residual block takes for one of them."""
    products = []

    class Counted(ModuleContraction):
        def linearize(self, tensors, x):
            gx, vjp = super().linearize(tensors, x)
            return gx, lambda u: products.append(len(u)) or vjp(u)

    g = Counted(nn.Tanh(), 0.99)
    counts = []
    for kind in (ResidualBlock, MonotoneBlock):
        products.clear()
        kind(g, PowerSeries(6)).forward_and_logdet(torch.randn(3, 2))
        counts.append(len(products))
    assert counts == [6, 6]


@ALL_BLOCKS
def test_gradients_through_both_solves(name):
    """∂z and ∂ log|det| to x, with unequal weights of the samples, by central differences; the same for the inverse."""
    block = BLOCKS[name]()
    weights = torch.tensor([1.0, -2.0, 0.5])
    for direction in (block.forward_and_logdet, block.inverse_and_logdet):

        def loss(x: Tensor, direction=direction) -> Tensor:
            z, logdet = direction(x)
            return (weights * (z.sin().sum(1) + logdet)).sum()

        assert torch.autograd.gradcheck(loss, torch.randn(3, 3, requires_grad=True), atol=1e-6)


@ALL_FLOWS
@pytest.mark.parametrize("forwards", [True, False], ids=["forward", "inverse"])
def test_gradients_to_the_parameters_against_finite_differences(name, forwards):
    flow = FLOWS[name](logdet=Exact())
    x = torch.randn(20, 2)
    for layer in lipschitz_layers(flow):
        layer.converge(1e-14, 10_000)
    flow.log_prob(x)

    def loss() -> Tensor:
        return flow.log_prob(x).mean() if forwards else flow.inverse(x).sin().mean()

    loss().backward()
    for key, parameter in flow.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(loss().item())
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
        slope = (values[0] - values[1]) / 2e-5
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-6), key


@ALL_FLOWS
def test_hessians_of_log_densities(name):
    flow = FLOWS[name](logdet=Exact())
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    flow.log_prob(torch.randn(50, 2))

    def score(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(flow.log_prob(x[None])[0], x)[0]

    x, h = torch.tensor([0.4, -0.7]), 1e-5
    truth = torch.stack([(score(x + h * e) - score(x - h * e)) / (2 * h) for e in torch.eye(2)])
    found = torch.autograd.functional.hessian(lambda x: flow.log_prob(x[None])[0], x)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", [TRAINING, PowerSeries(3), AdaptiveRoulette()], ids=str)
def test_the_hessian_of_an_estimate_is_that_of_its_value_with_the_same_draws(estimator):
    block = MonotoneBlock(steep(2), estimator).eval()

    def value(x: Tensor) -> Tensor:
        return block.forward_and_logdet(x.reshape(2, 2), generator=torch.Generator().manual_seed(4))[1].sum()

    x, h = torch.randn(4), 1e-3
    with torch.no_grad():
        pairs = [
            [sum(a * b * value(x + h * (a * i + b * j)) for a in (1, -1) for b in (1, -1)) for i in torch.eye(4)]
            for j in torch.eye(4)
        ]
    truth = torch.tensor(pairs) / (4 * h**2)
    torch.testing.assert_close(torch.autograd.functional.hessian(value, x), truth, rtol=1e-2, atol=1e-3)


@ALL_BLOCKS
def test_second_derivatives_of_both_directions(name):
    block, x = BLOCKS[name](), torch.randn(2, 3, requires_grad=True)
    for direction in (block.forward, block.inverse):
        assert torch.autograd.gradgradcheck(direction, x, atol=1e-5)


@ALL_BLOCKS
@pytest.mark.parametrize("forwards", [True, False], ids=["forward", "inverse"])
def test_error_bounds_of_both_directions_hold(name, forwards):
    """A coarse solver's errors, against the bound by hand as well: scale, ActNorm, block, ActNorm."""
    flow = Flow((3,), Chain([Affine(1.0, 3.0), ActNorm(3), BLOCKS[name](), ActNorm(3), BLOCKS[name]()]))
    x = 3 * torch.randn(40, 3)
    with torch.no_grad():
        flow.log_prob(x)  # sets ActNorm
        z = flow(x)
        coarse = flow.with_inverse(Picard(1e-3)).bijection
        if forwards:
            coarse, truth, given = Inverse(coarse), z, x
        else:
            truth, given = x, z
        found = invert(coarse, coarse, given)
    error = (found.value - truth).norm(dim=1)
    assert (error <= found.error_bound).all()
    assert found.error_bound.isfinite().all()
    assert error.max() > 1e-5
    assert len(found.blocks) == 2
    assert all((block.error_bound > 0).all() for block in found.blocks)


def test_the_bound_of_a_monotone_block_by_hand():
    """Both bounds are attained by g(x) = -L x: slopes (1 + L)/(1 - L) forward, and an error of residual/(1 - L)."""
    bound, x = 0.8, torch.tensor([[1.0], [-2.0]])
    block = MonotoneBlock(linear(torch.tensor([[-bound]]), bound), Exact())
    torch.testing.assert_close(block(x), 9 * x, rtol=1e-8, atol=1e-9)
    assert block.solved_lipschitz_bound() == pytest.approx(9)
    coarse = MonotoneBlock(block.g, Exact(), Picard(1e-2))
    found = coarse.solve_forward(x)
    error = (found.value - x - block(x)).norm(dim=1)
    torch.testing.assert_close(block.inverse_error_bound(found), error, rtol=1e-6, atol=1e-8)
    assert coarse.solve(x).converged.all()
    chained = Inverse(Chain([coarse, coarse.__class__(block.g, Exact(), Picard(1e-2))]))
    report = invert(chained, chained, x)
    near, far = report.blocks[1], report.blocks[0]
    torch.testing.assert_close(report.error_bound, near.error_bound + 9 * far.error_bound)


def test_an_implicit_block_adds_no_error_where_it_is_explicit():
    block = ImplicitBlock(linear(matrix(0.5)), linear(matrix(0.7)), Exact(), Picard(1e-3))
    found = invert(block, block, torch.randn(6, 4))
    assert [one.name for one in found.blocks] == ["bijections.0"]
    torch.testing.assert_close(found.error_bound, found.blocks[0].error_bound)
    both = Chain([block, Affine(0.0, 1.0)])
    two = Chain([ImplicitBlock(linear(matrix(0.5)), linear(matrix(0.7)), Exact(), Picard(1e-3)), block])
    assert invert(both, both, torch.randn(2, 4)).error_bound.isfinite().all()
    found = invert(two, two, torch.randn(6, 4))
    far, near = found.blocks
    by_hand = near.error_bound + near.lipschitz_bound * 1.99 * far.error_bound
    torch.testing.assert_close(found.error_bound, by_hand)


def test_errors_in_another_norm_than_the_euclidean_one_are_bounded():
    block = MonotoneBlock(steep(norms=MixedNorms((3, 2, 2, 3))), Exact(), Picard(1e-3))
    x = torch.randn(20, 3)
    with torch.no_grad():
        truth = MonotoneBlock(block.g, Exact())(x)
        found = block.solve_forward(x)
    assert found.order == 3
    assert ((found.value - x - truth).norm(dim=1) <= block.inverse_error_bound(found)).all()


@pytest.mark.parametrize("forwards", [True, False], ids=["forward", "inverse"])
def test_a_fixed_point_that_is_not_reached_is_named_with_its_block(forwards):
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_((-3 if forwards else 3) * torch.eye(2))
    g = ModuleContraction(module, 0.9)
    flow = Flow((2,), Chain([ActNorm(2), MonotoneBlock(g, Exact(), Picard(max_iterations=60))]))
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    flow.bijection.bijections[0].forward(torch.randn(30, 2))
    calls = (flow.log_prob, flow, flow.forward_and_logdet) if forwards else (flow.inverse,)
    for call in calls:
        with pytest.raises(
            InversionError, match=r"^bijection\.bijections\.1: the fixed point of a monotone block.*residual of sample"
        ):
            call(x)
    implicit = Flow((2,), Chain([ImplicitBlock(linear(0.1 * torch.eye(2)), g, Exact(), Picard(max_iterations=60))]))
    if forwards:
        with pytest.raises(InversionError, match=r"^bijection\.bijections\.0\.bijections\.1\.bijection: the inverse"):
            implicit.log_prob(x)


@ALL_BLOCKS
def test_nan_and_too_few_iterations_are_errors(name):
    x = torch.randn(3, 3)
    with pytest.raises(InversionError, match="after 2 iterations"):
        BLOCKS[name](Picard(max_iterations=2)).forward(x)
    x[2, 1] = math.nan
    with pytest.raises(InversionError, match="sample 2"):
        BLOCKS[name]().forward(x)


@ALL_FLOWS
def test_certificates_list_every_contraction(name):
    flow = FLOWS[name]()
    certificate = flow.certify()
    assert certificate.invertible
    contractions = [one for one in flow.modules() if isinstance(one, LipschitzMLP)]
    assert len(certificate.blocks) == len(contractions) == 2
    for block, g in zip(certificate.blocks, contractions, strict=True):
        assert block.bound == pytest.approx(g.lipschitz_bound(), rel=1e-6)
        assert flow.get_submodule(block.name).g is g
    assert not Flow((2,), MonotoneBlock(linear(matrix(0.5, 2)))).certify().invertible


@ALL_FLOWS
def test_estimators_and_solvers_are_replaced_in_copies(name):
    flow = FLOWS[name](logdet=AdaptiveRoulette())
    x = torch.randn(30, 2)
    flow.log_prob(x).sum().backward()
    decays = [module.decay for module in flow.modules() if hasattr(module, "decay")]
    assert len(decays) == 2
    assert all(int(decay.passes) > 0 for decay in decays)
    exact = flow.with_logdet(Exact())
    assert exact.estimator_name == str(Exact())
    assert flow.estimator_name == str(AdaptiveRoulette())
    twin = exact.with_inverse(Anderson(1e-4))
    assert not torch.equal(twin.log_prob(x), exact.log_prob(x))
    torch.testing.assert_close(twin.log_prob(x), exact.log_prob(x), rtol=0.0, atol=1e-2)
    decay = series_decay(flow, x)
    assert [one.name for one in decay] == [one.name for one in flow.certify().blocks]


@dataclass(frozen=True)
class OneTrace(LogDetEstimator):
    """As users write estimators: of log|det(I + J)| alone."""

    def estimate(self, linearize, x, generator=None):
        return PowerSeries(1).estimate(linearize, x, generator)

    def __str__(self) -> str:
        return "one trace"


def test_what_cannot_be_done_is_refused_by_name():
    x = torch.randn(3, 3)
    with pytest.raises(ConfigurationError, match=r"one trace: OneTrace estimates log\|det\(I \+ J\)\| only"):
        MonotoneBlock(steep(), OneTrace()).forward_and_logdet(x)
    ImplicitBlock(steep(), steep(), OneTrace()).forward_and_logdet(x)
    with pytest.raises(DomainError, match="Linear is not a contraction"):
        MonotoneBlock(nn.Linear(3, 3))
    for make in BLOCKS.values():
        block = make()
        for call in (block.forward, block.inverse):
            with pytest.raises(ConfigurationError, match=r"torch\.func cannot transform a fixed-point inverse"):
                torch.func.vmap(lambda row, call=call: call(row[None])[0])(x)
