"""Continuous flows: laws, rates of error, unbiasedness, the adjoint, penalties, failures."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Generator, Tensor, nn

from contraflow import Chain, Exact, Flow, PowerSeries, SolverError
from contraflow.bijections import ActNorm, ContinuousFlow, training_solves, with_logdet
from contraflow.errors import ConfigurationError, DomainError
from contraflow.logdet import ExactDivergence, Hutchinson
from contraflow.logdet.probes import Gaussian, Rademacher
from contraflow.nets import FIELD_ACTIVATIONS, FIELD_LAYERS, Concat, VectorField, conv_field, dense_field
from contraflow.numerics import FIXED_METHODS, METHODS, FixedStepSolver, OdeSolver, batch_jacobian
from contraflow.testing import check_bijection

TIGHT = OdeSolver("dopri8", 1e-11)


def field(activation: str = "tanh") -> VectorField:
    """A vector field steep enough that divergence and step sizes vary along a solve."""
    net = dense_field(3, (8, 8), activation)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


class Linear(nn.Module):
    """f = A z, so that z(1) = e^A x and the log-determinant is tr A."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z @ self.matrix.T


def test_laws_of_a_bijection():
    """Direct gradients and images are tested among the architectures."""
    check_bijection(ContinuousFlow(dense_field(2, (4,)), Hutchinson(), TIGHT), torch.randn(2, 2), float32_atol=3e-3)


@pytest.mark.parametrize("adjoint", [True, False])
def test_a_linear_field_is_the_matrix_exponential(adjoint):
    matrix = torch.randn(3, 3)
    flow = ContinuousFlow(Linear(matrix), ExactDivergence(), TIGHT, adjoint=adjoint)
    x = torch.randn(4, 3)
    z, logdet = flow.forward_and_logdet(x)
    torch.testing.assert_close(z, x @ torch.linalg.matrix_exp(matrix).T, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(logdet, torch.trace(matrix).expand(4), atol=1e-9, rtol=1e-9)
    (gradient,) = torch.autograd.grad((logdet * torch.arange(1.0, 5.0)).sum(), flow.field.matrix)
    torch.testing.assert_close(gradient, 10 * torch.eye(3), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_the_error_of_the_logdet_falls_with_the_tolerance(method):
    """At least 3/4 of the theoretical power p/(p + 1) for order p, against the dense Jacobian of a tight solve."""
    net, x = field(), torch.randn(5, 3)
    exact = ContinuousFlow(net, ExactDivergence(), OdeSolver("dopri8", 1e-13), adjoint=False)
    truth = torch.linalg.slogdet(batch_jacobian(exact.forward, x))[1]
    tolerances = [1e-3, 1e-5, 1e-7, 1e-9] if METHODS[method] >= 5 else [1e-3, 1e-5]
    errors, evaluations = [], []
    for tolerance in tolerances:
        flow = ContinuousFlow(net, ExactDivergence(), OdeSolver(method, tolerance, 10**5))
        with torch.no_grad(), training_solves(flow) as solves:
            logdet = flow.forward_and_logdet(x)[1]
        errors.append((logdet - truth).abs().max().item())
        evaluations.append(solves[0].evaluations)
    assert evaluations == sorted(set(evaluations)), evaluations
    assert all(error < 30 * tolerance for error, tolerance in zip(errors, tolerances, strict=True)), errors
    slope = math.log(errors[-1] / errors[0]) / math.log(tolerances[-1] / tolerances[0])
    assert slope > 0.75 * METHODS[method] / (METHODS[method] + 1), (slope, errors)


def test_a_solve_agrees_with_torchdiffeq():
    """The same equation written out: forward-mode divergence, torchdiffeq's own adjoint over the whole state."""
    from torchdiffeq import odeint_adjoint

    flow = ContinuousFlow(field(), ExactDivergence(), TIGHT)
    x = torch.randn(2, 3)
    weights = torch.tensor([1.0, -2.0])

    class Augmented(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = flow.field

        def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            jacobian = torch.func.vmap(torch.func.jacrev(lambda one: self.field(t, one)))(state[0])
            return self.field(t, state[0]), jacobian.diagonal(dim1=1, dim2=2).sum(1)

    times = torch.tensor([0.0, 1.0])
    by_hand = odeint_adjoint(Augmented(), (x, torch.zeros(2)), times, rtol=1e-10, atol=1e-10, method="dopri5")
    z, logdet = flow.forward_and_logdet(x)
    torch.testing.assert_close(z, by_hand[0][-1], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(logdet, by_hand[1][-1], atol=1e-8, rtol=1e-8)
    parameters = list(flow.parameters())
    ours = torch.autograd.grad((logdet * weights + z.square().sum(1)).sum(), parameters)
    theirs = torch.autograd.grad((by_hand[1][-1] * weights + by_hand[0][-1].square().sum(1)).sum(), parameters)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("inverse", [False, True])
def test_adjoint_against_direct_gradients(inverse):
    """In x and all parameters, under unequal weights that are far from 1, with penalties, in both directions."""
    net, start = field(), torch.randn(4, 3)
    gradients = []
    for adjoint in (True, False):
        flow = ContinuousFlow(net, Hutchinson(), TIGHT, adjoint=adjoint, kinetic_weight=0.3, jacobian_weight=0.2)
        x = start.clone().requires_grad_()
        with training_solves(flow) as solves:
            there = flow.inverse_and_logdet if inverse else flow.forward_and_logdet
            z, logdet = there(x, generator=Generator().manual_seed(1))
        loss = ((z.sum(1) + logdet + solves[0].penalty) * torch.tensor([1.0, -2.0, 0.5, 30.0])).sum() * 1e-9
        gradients.append([1e9 * gradient for gradient in torch.autograd.grad(loss, [x, *net.parameters()])])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients[0])


def test_adjoint_gradients_of_the_inverse():
    flow = ContinuousFlow(field(), solver=TIGHT)
    z = torch.randn(1, 3, requires_grad=True)
    assert torch.autograd.gradcheck(flow.inverse, (z,), atol=1e-6, rtol=1e-6)


def test_parameters_changed_between_solve_and_gradient_are_refused():
    flow = ContinuousFlow(field())
    loss = flow(torch.randn(2, 3)).sum()
    with torch.no_grad():
        next(flow.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_parameters_get_no_gradient():
    flow = ContinuousFlow(field())
    frozen, *others = flow.parameters()
    frozen.requires_grad_(False)
    flow.forward_and_logdet(torch.randn(2, 3))[1].sum().backward()
    assert frozen.grad is None
    assert all(one.grad is not None for one in others)


@pytest.mark.parametrize("divergence", [Hutchinson(), Hutchinson(Gaussian(), 2)], ids=str)
def test_hutchinson_is_unbiased(divergence):
    """Value and gradient in x over 2000 rows of one sample; |z| < 4.5, false alarms in 1 of 35,000 runs a number."""
    net, x = field(), torch.randn(1, 3).expand(2000, 3)
    solver = OdeSolver()

    def run(flow: ContinuousFlow, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        logdet = flow.forward_and_logdet(x, generator=Generator().manual_seed(2))[1]
        return logdet.detach(), torch.autograd.grad(logdet.sum(), x)[0]

    exact, exact_gradient = run(ContinuousFlow(net, ExactDivergence(), solver), x[:1])
    value, gradient = run(ContinuousFlow(net, divergence, solver), x)
    for draws, truth in ((value[:, None], exact[:, None]), (gradient, exact_gradient)):
        error = draws.std(0) / len(draws) ** 0.5
        assert ((draws.mean(0) - truth[0]) / error).abs().max() < 4.5
        assert error.min() > 1e-4, "no noise, no test"


def test_more_probes_have_less_variance():
    """Var ∝ 1/P: the ratio for 8 probes lies within 25 %, more than five standard errors at 4000 rows."""
    x = torch.randn(1, 3).expand(4000, 3)
    net, generator = field(), Generator().manual_seed(0)
    one, eight = (
        ContinuousFlow(net, Hutchinson(Rademacher(), probes)).forward_and_logdet(x, generator=generator)[1].var()
        for probes in (1, 8)
    )
    assert 6 < one / eight < 10


def test_noise_comes_from_the_generator_once_a_solve():
    flow, x = ContinuousFlow(field()), torch.randn(4, 3)
    one, two, other = (flow.forward_and_logdet(x, generator=Generator().manual_seed(s))[1] for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    generator, reference = Generator().manual_seed(1), Generator().manual_seed(1)
    flow.forward_and_logdet(x, generator=generator)
    Rademacher().sample((1, 4, 3), x, reference)
    assert torch.equal(generator.get_state(), reference.get_state())
    flow.forward(x, generator=generator)
    assert torch.equal(generator.get_state(), reference.get_state()), "forward alone needs no noise"


@pytest.mark.parametrize("adjoint", [True, False])
def test_evaluations_are_counted(adjoint):
    calls = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = field()

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return self.inner(t, z)

    flow = ContinuousFlow(Counting(), adjoint=adjoint)
    with training_solves(Chain([ActNorm(3), flow])) as solves:
        z = flow.forward_and_logdet(torch.randn(4, 3))[0]
        flow.inverse(z.detach())
    assert [solve.evaluations for solve in solves] == [solves[0].evaluations, calls - solves[0].evaluations]
    assert min(solve.evaluations for solve in solves) > 8
    flow.forward(torch.randn(4, 3))
    assert len(solves) == 2, "watching has ended"
    assert flow.observer is None


def test_penalties_are_the_integrals_of_the_paper():
    """Along the linear field, ∫‖A e^{tA} x‖² dt by quadrature and ‖A‖_F²; the same either way; none without weights."""
    matrix, x = torch.randn(3, 3), torch.randn(4, 3)
    flow = ContinuousFlow(Linear(matrix), ExactDivergence(), TIGHT, kinetic_weight=0.7, jacobian_weight=0.2)
    with training_solves(flow) as solves:
        z, _ = flow.forward_and_logdet(x)
        flow.inverse_and_logdet(z)
    nodes = (torch.arange(2000) + 0.5) / 2000
    speeds = torch.stack([(x @ (matrix @ torch.linalg.matrix_exp(t * matrix)).T).square().sum(1) for t in nodes])
    expected = 0.7 * speeds.mean(0) + 0.2 * matrix.square().sum()
    torch.testing.assert_close(solves[0].penalty, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(solves[1].penalty, expected, atol=1e-5, rtol=1e-5)
    plain = ContinuousFlow(Linear(matrix))
    with training_solves(plain) as solves:
        plain.forward_and_logdet(x)
    assert torch.equal(solves[0].penalty, torch.zeros(4))


def test_penalty_weights_do_not_change_log_densities():
    net, x = field(), torch.randn(4, 3)
    plain = ContinuousFlow(net, ExactDivergence(), TIGHT)
    weighted = ContinuousFlow(net, ExactDivergence(), TIGHT, kinetic_weight=1.0, jacobian_weight=1.0)
    with training_solves(weighted):
        torch.testing.assert_close(weighted.forward_and_logdet(x), plain.forward_and_logdet(x), atol=1e-9, rtol=1e-9)


def test_with_logdet_makes_the_divergence_exact_or_leaves_it():
    flow = Flow((3,), Chain([ContinuousFlow(field(), solver=OdeSolver(tolerance=1e-6))]))
    assert flow.estimator_name == "divergence by 1 Rademacher probe, dopri5 to 1e-06"
    assert flow.with_logdet(Exact()).estimator_name == "exact divergence, dopri5 to 1e-06"
    assert flow.with_logdet(PowerSeries()).estimator_name == flow.estimator_name
    x = torch.randn(2, 3)
    exact = with_logdet(flow, Exact())
    assert torch.equal(exact.log_prob(x), exact.log_prob(x)), "no noise"
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))


def test_an_empty_batch_needs_no_solve():
    flow = ContinuousFlow(field())
    with training_solves(flow) as solves:
        z, logdet = flow.forward_and_logdet(torch.zeros(0, 3))
    (z.sum() + logdet.sum()).backward()
    assert (z.shape, logdet.shape, solves[0].evaluations) == ((0, 3), (0,), 0)


def test_a_tolerance_below_float32_rounding_is_raised_to_it():
    """The solve ends, and its error is of the size of float32 rounding."""
    flow, x = ContinuousFlow(field(), ExactDivergence(), OdeSolver(tolerance=1e-14)), torch.randn(4, 3)
    double = flow.forward_and_logdet(x)
    single = flow.float().forward_and_logdet(x.float())
    for ours, truth in zip(single, double, strict=True):
        torch.testing.assert_close(ours.double(), truth, atol=2e-5, rtol=2e-5)


class Fragile(nn.Module):
    """f = s z until it is broken."""

    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.slope * z * (math.nan if self.broken else 1)


class Blowup(nn.Module):
    """dz/dt = z², which is infinite at t = 1/x."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z**2


@pytest.mark.parametrize(
    ("broken", "solver", "match"),
    [
        (Blowup(), OdeSolver(max_evaluations=100_000), r"dopri5 to 1e-05 failed after \d+ evaluations"),
        (Blowup(), OdeSolver("dopri8", 1e-9, 50), r"dopri8 to 1e-09 reached max_evaluations=50 at t = 0\.\d+"),
        (Fragile(), OdeSolver(), "underflow"),
    ],
)
def test_a_failed_solve_raises_an_error(broken, solver, match):
    broken.broken = True
    flow = ContinuousFlow(broken, solver=solver)
    with pytest.raises(SolverError, match=match) as error:
        flow.forward(torch.full((2, 3), 2.0))
    assert "loosen the tolerance" in str(error.value)


def test_a_failed_adjoint_raises_an_error():
    flow = ContinuousFlow(Fragile())
    z = flow.forward(torch.randn(4, 3))
    flow.field.broken = True
    with pytest.raises(SolverError, match="underflow"):
        z.sum().backward()


def test_bad_arguments_are_refused(monkeypatch):
    with pytest.raises(ConfigurationError, match="unknown ODE solver 'dopri'"):
        OdeSolver("dopri")
    for tolerance in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DomainError, match="tolerance="):
            OdeSolver(tolerance=tolerance)
    with pytest.raises(DomainError, match="max_evaluations=0"):
        OdeSolver(max_evaluations=0)
    with pytest.raises(DomainError, match="probes=0"):
        Hutchinson(probes=0)
    for weight in ("kinetic_weight", "jacobian_weight"):
        with pytest.raises(DomainError, match=rf"{weight}=-0\.1"):
            ContinuousFlow(field(), **{weight: -0.1})
    with pytest.raises(ConfigurationError, match="unknown activation 'relu'"):
        dense_field(3, (8,), "relu")
    with pytest.raises(ConfigurationError, match="unknown layer 'concatsquish'"):
        conv_field(3, (8,), layer="concatsquish")
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'contraflow\[ffjord\]'"):
        ContinuousFlow(field()).forward(torch.zeros(1, 3))


def test_concatenated_time_is_the_first_input():
    layer, z, t = Concat(nn.Linear(4, 5)), torch.randn(2, 3), torch.tensor(0.3)
    weight, bias = layer.layer.weight, layer.layer.bias
    torch.testing.assert_close(layer(t, z), z @ weight[:, 1:].T + t * weight[:, 0] + bias)
    convolution = Concat(nn.Conv2d(4, 5, 3, padding=1))
    images = torch.randn(2, 3, 4, 6)
    own = nn.functional.conv2d(images, convolution.layer.weight[:, 1:], convolution.layer.bias, padding=1)
    time = nn.functional.conv2d(t.expand(1, 1, 4, 6), convolution.layer.weight[:, :1], padding=1)
    torch.testing.assert_close(convolution(t, images), own + time)


@pytest.mark.parametrize("layer", FIELD_LAYERS)
def test_images_work_with_every_kind_of_layer(layer):
    flow = ContinuousFlow(conv_field(2, (3,), "tanh", layer), ExactDivergence(), TIGHT)
    x = torch.randn(2, 2, 2, 2)
    z, logdet = flow.forward_and_logdet(x)
    dense = batch_jacobian(lambda rows: flow.forward(rows.unflatten(1, (2, 2, 2))).flatten(1), x.flatten(1))
    torch.testing.assert_close(logdet, torch.linalg.slogdet(dense).logabsdet, atol=1e-8, rtol=0)
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-8, rtol=0)


@pytest.mark.parametrize("layer", FIELD_LAYERS)
@pytest.mark.parametrize("activation", FIELD_ACTIVATIONS)
def test_a_field_depends_on_time_and_every_input(activation, layer):
    net = dense_field(3, (8,), activation, layer)
    t = torch.tensor(0.3)
    jacobian = batch_jacobian(lambda z: net(t, z), torch.randn(2, 3))
    assert (jacobian.abs() > 1e-9).all()
    assert not torch.allclose(net(t, torch.ones(1, 3)), net(2 * t, torch.ones(1, 3)))


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_the_error_of_fixed_steps_falls_with_their_order(method):
    """Halving the step divides the error of z and of the logdet by about 2^order."""
    net, x = field(), torch.randn(5, 3)
    tight = ContinuousFlow(net, ExactDivergence(), TIGHT).forward_and_logdet(x)
    errors = []
    for steps in (16, 32):
        flow = ContinuousFlow(net, ExactDivergence(), training_solver=FixedStepSolver(method, steps), adjoint=False)
        with torch.no_grad(), training_solves(flow) as solves:
            values = flow.forward_and_logdet(x)
        assert solves[0].evaluations == steps * FIXED_METHODS[method]
        errors.append([(ours - truth).abs().max().item() for ours, truth in zip(values, tight, strict=True)])
    for coarse, fine in zip(*errors, strict=True):
        assert abs(math.log2(coarse / fine) - FIXED_METHODS[method]) < 0.3, errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_fixed_grid_has_its_number_of_steps(dtype):
    """Either way, where 1/steps is no binary fraction too."""
    calls = 0

    def dynamics(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        return (torch.ones(1, dtype=dtype),)

    for steps in range(1, 60):
        for start, end in ((0.0, 1.0), (1.0, 0.0)):
            calls = 0
            solution = FixedStepSolver("euler", steps).solve(dynamics, (torch.zeros(1, dtype=dtype),), start, end)
            assert calls == solution.evaluations == steps
            torch.testing.assert_close(solution.state[0], torch.full((1,), end - start, dtype=dtype))


def test_gradients_through_fixed_steps_are_those_of_the_steps():
    """In x and the parameters, against differences of the discretised value."""
    flow = ContinuousFlow(
        dense_field(2, (3,), "tanh"), ExactDivergence(), training_solver=FixedStepSolver("rk4", 2), adjoint=False
    )
    x = torch.randn(2, 2, requires_grad=True)
    names = [name for name, _ in flow.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        with training_solves(flow):
            given = dict(zip(names, parameters, strict=True))
            with torch.nn.utils.stateless._reparametrize_module(flow, given):
                return flow.forward_and_logdet(x)

    assert torch.autograd.gradcheck(run, (x, *(one.detach().requires_grad_() for one in flow.parameters())))


def test_the_training_solver_is_for_training_alone():
    """Densities and samples come from `solver`, however coarse the steps of training are."""
    coarse = FixedStepSolver("euler", 1)
    flow = ContinuousFlow(field(), ExactDivergence(), TIGHT, training_solver=coarse, adjoint=False)
    plain = ContinuousFlow(flow.field, ExactDivergence(), TIGHT)
    x = torch.randn(4, 3)
    with training_solves(flow) as solves:
        z = flow.forward_and_logdet(x)[0]
    assert solves[0].evaluations == 1
    torch.testing.assert_close(z, x + flow.field(torch.tensor(0.0), x))
    assert torch.equal(flow.forward_and_logdet(x)[1], plain.forward_and_logdet(x)[1])
    assert torch.equal(flow.inverse(z), plain.inverse(z))


def test_bad_fixed_steps_are_refused():
    with pytest.raises(ConfigurationError, match="unknown fixed-step ODE solver 'dopri5'"):
        FixedStepSolver("dopri5")
    with pytest.raises(DomainError, match="steps=0: at least 1"):
        FixedStepSolver(steps=0)
    assert str(FixedStepSolver("midpoint", 8)) == "midpoint in 8 steps"
    empty = FixedStepSolver().solve(lambda t, y: y, (torch.zeros(0, 2),), 0.0, 1.0)
    assert empty.evaluations == 0
