"""The inverse of a residual block: accurate, differentiable, and never silently wrong."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from contraflow import Chain, Exact, Flow, InversionError, ModuleContraction, ResidualBlock, residual_flow
from contraflow.bijections import ActNorm, Affine
from contraflow.errors import ConfigurationError, DomainError
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP
from contraflow.numerics import Anderson, Picard


def steep_block(solver=None) -> ResidualBlock:
    g = LipschitzMLP(3, (16, 16), bound=0.98, activation="elu")
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(5)
    return ResidualBlock(g, Exact(), solver)


def expanding() -> ResidualBlock:
    """g(x) = -3x under a false bound: the iteration diverges."""
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(-3 * torch.eye(2))
    return ResidualBlock(ModuleContraction(module, 0.9), Exact(), Picard(max_iterations=60))


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=str)
def test_float64_round_trips_stay_below_1e_9(solver):
    block = steep_block(solver)
    x = 3 * torch.randn(50, 3)
    assert (block.inverse(block.forward(x)) - x).abs().max() < 1e-9


def test_float32_round_trips_are_as_good_as_their_bound_says():
    block = steep_block().float()
    x = torch.randn(50, 3, dtype=torch.float32)
    found = block.solve(block.forward(x).detach())
    error = (found.value - x).norm(dim=1)
    assert (error <= block.inverse_error_bound(found) + 1e-5).all()
    assert error.max() < 1e-3


def test_solve_reports_residual_iterations_and_a_bound_that_holds():
    block = steep_block(Picard(1e-4))
    x = torch.randn(20, 3) * torch.logspace(-2, 2, 20)[:, None]
    z = block.forward(x).detach()
    found = block.solve(z)
    residual = (z - found.value - block.g(found.value)).norm(dim=1).detach()
    torch.testing.assert_close(found.residual, residual)
    assert (residual <= 1e-4 * math.sqrt(3)).all()
    assert ((found.value - x).norm(dim=1) <= block.inverse_error_bound(found)).all()
    assert len(found.iterations.unique()) > 1


def test_a_map_that_does_not_contract_is_named_with_block_sample_and_remedy():
    flow = Flow((2,), Chain([ActNorm(2), expanding()]))
    with pytest.raises(InversionError) as caught:
        flow.inverse(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    message = str(caught.value)
    assert message.startswith("bijection.bijections.1:")
    assert "sample 1" in message
    assert "residual" in message
    assert "Raise max_iterations" in message
    assert "0.9" in message
    assert "1 of 2 samples" in message


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=str)
def test_nan_is_an_error_and_never_an_answer(solver):
    block = steep_block(solver)
    z = torch.randn(3, 3)
    z[2, 1] = float("nan")
    with pytest.raises(InversionError, match="sample 2"):
        block.inverse(z)
    with pytest.raises(DomainError, match="NaN or infinity in sample 2"):
        Flow((3,), Chain([block])).inverse(z)


def test_too_few_iterations_is_an_error():
    block = steep_block(Picard(max_iterations=3))
    with pytest.raises(InversionError, match="after 3 iterations"):
        block.inverse(torch.randn(4, 3))


def unrolled(block: ResidualBlock, z: torch.Tensor) -> torch.Tensor:
    x = z
    for _ in range(300):
        x = z - block.g(x)
    return x


@pytest.mark.parametrize("kind", ["dense", "conv", "module"])
def test_implicit_gradients_are_those_of_the_unrolled_iteration(kind):
    torch.manual_seed(3)
    if kind == "dense":
        g, z = LipschitzMLP(3, (8,), bound=0.9), torch.randn(4, 3)
    elif kind == "conv":
        g, z = LipschitzConvNet(2, 4, (3, 3), bound=0.9), torch.randn(4, 2, 3, 3)
    else:
        g, z = ModuleContraction(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 0.9), torch.randn(4, 3)
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.mul_(0.7 if kind == "module" else 3)
    block = ResidualBlock(g, Exact())
    weights = torch.randn_like(z)
    results = []
    for inverse in (block.inverse, lambda z: unrolled(block, z)):
        start = z.clone().requires_grad_()
        loss = (weights * inverse(start).sin()).sum()
        results.append(torch.autograd.grad(loss, [start, *g.parameters()], allow_unused=True))
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-7, atol=1e-9)


def test_gradcheck_of_the_inverse():
    block = steep_block()
    assert torch.autograd.gradcheck(block.inverse, torch.randn(3, 3, requires_grad=True), atol=1e-6)


def test_rsample_gradient_against_finite_differences():
    flow = residual_flow((2,), blocks=2, hidden=(6,), logdet=Exact())
    flow.log_prob(torch.randn(30, 2))

    def loss(flow: Flow) -> torch.Tensor:
        return flow.rsample(5, generator=torch.Generator().manual_seed(2)).square().sum()

    loss(flow).backward()
    for name, parameter in flow.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(flow)
            with torch.no_grad():
                moved.get_parameter(name).add_(step * direction)
            values.append(loss(moved).item())
        slope = (values[0] - values[1]) / 2e-5
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-5), name


def test_rsample_gradients_survive_a_tiny_loss():
    """A mean over very many samples has gradients far below the tolerance: it is on their scale, not on 1."""
    block = steep_block()
    z = torch.randn(4, 3)
    grads = []
    for size in (1.0, 1e-12):
        start = z.clone().requires_grad_()
        (size * block.inverse(start).sum()).backward()
        grads.append(start.grad / size)
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-9)


def test_inverse_with_frozen_parameters_and_z_without_gradient():
    block = steep_block()
    block.requires_grad_(False)
    assert not block.inverse(torch.randn(2, 3)).requires_grad
    z = torch.randn(2, 3, requires_grad=True)
    block.inverse(z).sum().backward()
    assert z.grad.isfinite().all()


def test_a_block_asks_for_a_contraction_and_a_known_route():
    with pytest.raises(DomainError, match="Linear is no contraction"):
        ResidualBlock(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="Did you mean 'dual'"):
        ResidualBlock(LipschitzMLP(2, (4,)), gradient="duel")


def test_the_whole_flow_reports_blocks_and_a_bound_that_holds():
    flow = Flow((3,), Chain([ActNorm(3), steep_block(), ActNorm(3), steep_block()]), preprocessing=Affine(1.0, 3.0))
    with torch.no_grad():
        x = torch.randn(40, 3)
        z = flow(x)  # sets ActNorm
        found = flow.with_inverse(Picard(1e-3)).invert(z)
    error = (found.value - x).norm(dim=1)
    assert (error <= found.error_bound).all()
    assert error.max() > 1e-4
    names = [one.name for one in found.blocks]
    assert names == ["bijection.bijections.3", "bijection.bijections.1"]
    assert torch.equal(found.evaluations, found.blocks[0].found.iterations + found.blocks[1].found.iterations)
    # By hand: scale 3, then exp(-s) of the first ActNorm, then 1 / (1 - L) and the second ActNorm.
    near, far = found.blocks[1], found.blocks[0]
    first, second = (flow.bijection.bijections[index].log_scale for index in (0, 2))
    growth = 3 * (-first).exp().max()
    by_hand = growth * (near.error_bound + near.lipschitz_bound * (-second).exp().max() * far.error_bound)
    torch.testing.assert_close(found.error_bound, by_hand.detach())
    assert flow.bijection.bijections[1].observer is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anderson_needs_no_more_than_picard_on_a_block_at_its_bound(dtype):
    block = steep_block().to(dtype)
    z = torch.randn(1000, 3, dtype=dtype)
    picard, anderson = (ResidualBlock(block.g, Exact(), solver(1e-5)).solve(z) for solver in (Picard, Anderson))
    assert picard.converged.all()
    assert anderson.converged.all()
    assert (anderson.iterations <= picard.iterations + 1).all()
    assert anderson.iterations.double().mean() < 0.85 * picard.iterations.double().mean()
