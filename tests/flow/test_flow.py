"""Flow: its density integrates to one and is in nats of the data as given, and its gradients are right."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from contraflow import EVALUATION, TRAINING, Chain, Exact, Flow, ResidualBlock, residual_flow, residual_flow_images
from contraflow.bijections import ActNorm, Affine, Logit
from contraflow.errors import DomainError, ShapeError
from contraflow.lipschitz import LipschitzLayer


def steep_flow(dimensions: int, **options) -> Flow:
    """A flow far from the identity, its ActNorms set."""
    flow = residual_flow((dimensions,), blocks=3, hidden=(16, 16), **{"logdet": Exact(), **options})
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, LipschitzLayer):
                module.weight.mul_(5)
        x = 1.5 * torch.randn(200, dimensions)
        flow.log_prob(x.sigmoid() if options.get("preprocessing") is not None else x)
    return flow


def image_flow(**options) -> Flow:
    flow = residual_flow_images((1, 4, 4), blocks=(1, 1), hidden=4, dense_blocks=1, dense_hidden=6, **options)
    flow.log_prob(torch.randn(20, 1, 4, 4))
    return flow


def test_a_one_dimensional_density_integrates_to_one():
    x = torch.linspace(-40, 40, 40_001)
    with torch.no_grad():
        density = steep_flow(1).log_prob(x[:, None]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)


def test_a_density_with_logit_transform_integrates_to_one_over_the_unit_interval():
    """The integral falls short of 1 by the mass of the base outside f([0, 1])."""
    x = torch.linspace(0, 1, 40_001)
    flow = steep_flow(1, preprocessing=Logit(0.05))
    with torch.no_grad():
        density = flow.log_prob(x[:, None]).exp()
        ends = torch.special.ndtr(flow.forward(torch.tensor([[0.0], [1.0]])))
    mass = (ends[1] - ends[0]).item()
    assert 0.5 < mass < 1
    assert torch.trapezoid(density, x).item() == pytest.approx(mass, abs=1e-6)


def test_a_two_dimensional_density_integrates_to_one():
    axis = torch.linspace(-15, 15, 301)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = steep_flow(2).log_prob(grid).exp().reshape(301, 301)
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=1e-4)


def test_log_prob_is_in_nats_of_the_data_as_given():
    """z = (x - 3)/2 with a standard normal: the density is that of N(3, 4)."""
    flow = Flow((1,), Chain([]), preprocessing=Affine(torch.tensor([3.0]), torch.tensor([2.0])))
    x = torch.randn(5, 1)
    expected = torch.distributions.Normal(3.0, 2.0).log_prob(x)[:, 0]
    torch.testing.assert_close(flow.log_prob(x), expected)
    torch.testing.assert_close(flow.bits_per_dim(x), -expected / math.log(2))


def test_bits_per_dim_divides_by_the_number_of_data_dimensions():
    flow = image_flow(logdet=Exact())
    x = torch.randn(3, 1, 4, 4)
    assert flow.dimensions == 16
    torch.testing.assert_close(flow.bits_per_dim(x), -flow.log_prob(x) / (16 * math.log(2)))


def test_samples_follow_the_density():
    """Mean and variance of 4000 samples against the density's on a grid; 5 standard errors, false-alarm rate 1e-6."""
    flow = steep_flow(1)
    x = torch.linspace(-40, 40, 20_001)
    with torch.no_grad():
        density = flow.log_prob(x[:, None]).exp()
    mean = torch.trapezoid(density * x, x)
    variance = torch.trapezoid(density * (x - mean) ** 2, x)
    sample = flow.sample(4000, generator=torch.Generator().manual_seed(1))[:, 0]
    assert not sample.requires_grad
    squares = (sample - mean).square()
    assert abs(sample.mean() - mean) < 5 * (variance / 4000).sqrt()
    assert abs(squares.mean() - variance) < 5 * squares.std() / math.sqrt(4000)


def test_sample_inverts_draws_of_the_base_scaled_by_the_temperature():
    flow = steep_flow(2)
    z = flow.base.sample(3, generator=torch.Generator().manual_seed(1))
    x = flow.sample(3, generator=torch.Generator().manual_seed(1), temperature=0.5)
    torch.testing.assert_close(flow.forward(x).detach(), 0.5 * z, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(5, 3), ShapeError, r"shape \(batch, 2\), not \(5, 3\)"),
        (torch.zeros(3), ShapeError, r"not \(3,\)"),
        (torch.zeros(5, 2, 1), ShapeError, r"not \(5, 2, 1\)"),
        (torch.tensor([[0.0, 0.0], [0.0, float("nan")]]), DomainError, "NaN or infinity in sample 1"),
        (torch.tensor([[float("inf"), 0.0]]), DomainError, "NaN or infinity in sample 0"),
        (torch.zeros(5, 2, dtype=torch.float16), DomainError, r"torch\.float16"),
        (torch.zeros(5, 2, dtype=torch.bool), DomainError, r"torch\.bool"),
        (torch.zeros(5, 2, dtype=torch.complex64), DomainError, r"torch\.complex64"),
    ],
)
def test_wrong_input_gets_a_named_error(x, error, message):
    flow = residual_flow((2,), blocks=1, hidden=(4,))
    for method in (flow.log_prob, flow.forward, flow.bits_per_dim):
        with pytest.raises(error, match=message):
            method(x)


def test_any_data_dtype_is_computed_in_the_dtype_of_the_flow():
    flow = steep_flow(2)
    x = torch.tensor([[1, 2], [3, 0]])
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.float32):
        assert flow.log_prob(x.to(dtype)).dtype == torch.float64
    assert flow.float().log_prob(x.double()).dtype == torch.float32
    assert flow.sample(2).dtype == torch.float32


@pytest.mark.parametrize("make", [lambda: steep_flow(3, logdet=TRAINING), lambda: image_flow(logdet=TRAINING)])
def test_a_seed_determines_the_value_and_the_global_generator_is_not_used(make):
    flow = make()
    x = torch.randn(8, *flow.event_shape)
    values, samples = [], []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002 - the stream that must not matter
        torch.manual_seed(noise)
        with torch.no_grad():
            values.append(flow.log_prob(x, generator=torch.Generator().manual_seed(3)))
        samples.append(flow.sample(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(*values)
    assert torch.equal(*samples)
    with torch.no_grad():
        assert not torch.equal(values[0], flow.log_prob(x, generator=torch.Generator().manual_seed(4)))


def central_difference(function, x: Tensor, direction: Tensor, h: float = 1e-5) -> Tensor:
    with torch.no_grad():
        return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


@pytest.mark.parametrize("make", [lambda: steep_flow(5), lambda: image_flow(logdet=Exact())])
def test_the_score_is_right_above_two_dimensions(make):
    flow = make()
    x = torch.randn(4, *flow.event_shape, requires_grad=True)
    (score,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    direction = torch.randn(x.shape)
    slope = central_difference(flow.log_prob, x.detach(), direction)
    torch.testing.assert_close((score * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-6)


def test_the_score_of_an_evaluation_flow_is_unbiased():
    """z-test of every component over 400 draws, |z| < 4.9 for five of them: false-alarm rate 5e-6."""
    flow = steep_flow(5)
    x = torch.randn(1, 5)
    exact = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(flow.log_prob(exact).sum(), exact)
    many = x.repeat(400, 1).requires_grad_()
    estimate = flow.with_logdet(EVALUATION).log_prob(many, generator=torch.Generator().manual_seed(0))
    (draws,) = torch.autograd.grad(estimate.sum(), many)
    z = (draws.mean(0) - truth[0]) / (draws.std(0) / math.sqrt(len(draws)))
    assert z.abs().max() < 4.9


@pytest.mark.parametrize("make", [lambda: steep_flow(3, logdet=TRAINING), lambda: image_flow(logdet=TRAINING)])
def test_with_logdet_shares_parameters_and_does_not_change_the_original(make):
    flow = make()
    twin = flow.with_logdet(Exact())
    assert all(block.logdet is TRAINING for block in flow.modules() if isinstance(block, ResidualBlock))
    assert all(block.logdet == Exact() for block in twin.modules() if isinstance(block, ResidualBlock))
    pairs = list(zip(flow.parameters(), twin.parameters(), strict=True))
    assert pairs
    assert all(one is other for one, other in pairs)
    x = torch.randn(3, *flow.event_shape)
    before = twin.log_prob(x)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05)
    after = twin.log_prob(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, flow.with_logdet(Exact()).log_prob(x))
    after.sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_initialising_a_copy_made_by_with_logdet_initialises_both():
    flow = residual_flow((2,), blocks=1, hidden=(4,))
    twin = flow.with_logdet(Exact())
    twin.log_prob(5 + torch.randn(20, 2))
    state = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    flow.log_prob(-50 + torch.randn(20, 2))
    assert all(torch.equal(state[name], tensor) for name, tensor in flow.state_dict().items() if "shift" in name)


@pytest.mark.parametrize("make", [lambda: steep_flow(3), lambda: image_flow(logdet=Exact())])
def test_jacrev_and_vmap_go_through_forward(make):
    flow = make()
    x = torch.randn(4, *flow.event_shape)
    size = flow.dimensions

    def one(x: Tensor) -> Tensor:
        return flow.forward(x[None])[0].flatten()

    torch.testing.assert_close(torch.func.vmap(one)(x), flow.forward(x).flatten(1))
    jacobian = torch.func.vmap(torch.func.jacrev(one))(x).reshape(4, size, size)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], flow.forward_and_logdet(x)[1])


def test_gradient_routes_are_chosen_by_name_for_a_whole_flow():
    x, losses = torch.randn(4, 2), []
    for gradient in ("dual", "neumann"):
        torch.manual_seed(0)
        flow = steep_flow(2, gradient=gradient)
        flow.log_prob(x).sum().backward()
        losses.append([parameter.grad for parameter in flow.parameters()])
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other)


def test_a_flow_with_actnorm_alone_is_the_fitted_gaussian():
    x = 3 + 2 * torch.randn(1000, 1)
    flow = Flow((1,), Chain([ActNorm(1)]))
    expected = torch.distributions.Normal(x.mean(), x.std(correction=0)).log_prob(x)[:, 0]
    torch.testing.assert_close(flow.log_prob(x), expected)
