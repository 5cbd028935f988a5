"""Planar and Sylvester flows: laws, dense oracles, invertibility for all parameters, error bounds of inverses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from contraflow import Bijection, Flow
from contraflow.bijections import Planar, Sylvester
from contraflow.bijections.planar import invertible_product
from contraflow.errors import InversionError, ShapeError
from contraflow.numerics import Bisection, batch_jacobian
from contraflow.testing import check_bijection

MAPS = {
    "planar": (lambda **options: Planar(4, **options), 4),
    "planar, one dimension": (lambda **options: Planar(1, **options), 1),
    "sylvester, one component": (lambda **options: Sylvester(4, 1, **options), 4),
    "sylvester": (lambda **options: Sylvester(4, 2, **options), 4),
    "sylvester, square": (lambda **options: Sylvester(3, 3, **options), 3),
    "sylvester, one dimension": (lambda **options: Sylvester(1, 1, **options), 1),
}


def drawn(name: str, scale: float, seed: int = 0, **options: Bisection) -> tuple[Bijection, Tensor]:
    """A map whose every parameter is Gaussian times `scale`, and samples."""
    make, features = MAPS[name]
    torch.manual_seed(seed)
    bijection = make(**options)
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    return bijection, 2 * torch.randn(20, features)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("name", MAPS)
def test_laws(name, scale):
    bijection, x = drawn(name, scale)
    check_bijection(bijection, x[:3], fresh=MAPS[name][0])


@pytest.mark.parametrize("name", MAPS)
def test_invertible_under_random_parameters_times_ten(name):
    """In 20 draws, no Jacobian is singular or reverses orientation, and all samples are recovered."""
    for seed in range(20):
        bijection, x = drawn(name, 10.0, seed)
        with torch.no_grad():
            z, logdet = bijection.forward_and_logdet(x)
            solution = bijection.solve(z)
        sign, dense = torch.linalg.slogdet(batch_jacobian(bijection, x))
        assert sign.tolist() == [1.0] * len(x)
        assert (logdet - dense).abs().max() < 1e-7
        assert bool(solution.converged.all())
        assert solution.residual.max() < 1e-10
        assert (solution.value - x).abs().max() < 1e-7


@pytest.mark.parametrize("name", MAPS)
def test_every_point_has_a_preimage(name):
    """Points that are not the output of a forward pass have a preimage too."""
    bijection, z = drawn(name, 3.0)
    z = 100 * z
    assert (bijection(bijection.inverse(z)) - z).abs().max() < 1e-9


@pytest.mark.parametrize("name", MAPS)
def test_the_error_of_the_inverse_stays_within_its_bound(name):
    """With a loose bisection the distance from x stays within the bound, and both fall with the tolerance."""
    worst = []
    for tolerance in (1e-1, 1e-3, 1e-5):
        bijection, x = drawn(name, 1.0, inverse=Bisection(tolerance=tolerance))
        solution = bijection.solve(bijection(x).detach())
        error = (solution.value - x).norm(dim=1)
        assert bool((error <= solution.error_bound + 1e-12).all())
        assert error.max() > 1e-9
        worst.append(solution.error_bound.max().item())
    assert worst[0] > 20 * worst[1] > 400 * worst[2]


def test_the_error_bound_of_planar_is_attained():
    """At the steepest point of the inverse, a small displacement along û grows exactly by the factor of the bound."""
    bijection, _ = drawn("planar", 1.0)
    with torch.no_grad():
        bijection.w.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        bijection.u.copy_(torch.tensor([-4.0, 0.0, 0.0, 0.0]))
        bijection.b.zero_()
    inverse_slope = batch_jacobian(bijection.inverse, torch.zeros(1, 4))[0, 0, 0]
    solution = Planar.solve(bijection, torch.full((1, 4), 0.3))
    direction, gain = bijection.direction_and_gain()
    assert inverse_slope.item() == pytest.approx(1 / gain.item())
    assert (1 + direction.norm() / gain).item() >= inverse_slope.item()
    assert solution.error_bound.item() == pytest.approx(solution.residual.item() * (1 + direction.norm() / gain).item())


def test_the_error_bound_of_sylvester_includes_the_coupling_of_components():
    """If one tanh is an input of the next, displacements grow by far more than in either component alone."""
    torch.manual_seed(0)
    bijection = Sylvester(2, 2, Bisection(tolerance=1e-3))
    with torch.no_grad():
        bijection.diagonal.fill_(1.0)
        bijection.triangles.copy_(torch.tensor([[math.sinh(math.log(0.1)), 1.0], [0.0, math.sinh(math.log(0.1))]]))
        bijection.b.zero_()
    growth = torch.linalg.matrix_norm(batch_jacobian(bijection.inverse, torch.zeros(1, 2))[0], 2).item()
    solution = bijection.solve(torch.full((1, 2), 0.3))
    bound = (solution.error_bound / solution.residual).item()
    assert growth > 5 / 0.1
    assert growth <= bound <= 2 * growth


@pytest.mark.parametrize("name", MAPS)
def test_gradients_of_the_inverse_are_those_of_the_inverse_function(name):
    """J of the inverse is the inverse of J; parameters move x by -J⁻¹ ∂f/∂θ, by central differences."""
    bijection, x = drawn(name, 1.0)
    x = x[:4]
    z = bijection(x).detach()
    back = batch_jacobian(bijection.inverse, z)
    ahead = batch_jacobian(bijection, x)
    assert (back @ ahead - torch.eye(x.shape[1])).abs().max() < 1e-9
    weights = torch.randn(x.shape)
    value, logdet = bijection.inverse_and_logdet(z)
    grads = torch.autograd.grad((value * weights).sum() + logdet.sum(), list(bijection.parameters()))
    for parameter, grad in zip(bijection.parameters(), grads, strict=True):
        direction, h, ends = torch.randn(parameter.shape), 1e-5, []
        for step in (h, -h):
            with torch.no_grad():
                parameter.add_(step * direction)
                moved, moved_logdet = bijection.inverse_and_logdet(z)
                parameter.sub_(step * direction)
            ends.append((moved * weights).sum() + moved_logdet.sum())
        slope = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_the_constraint_holds_for_any_product():
    t = torch.tensor([-1e12, -1e3, -1.0, -1e-9, 0.0, 1e-9, 1.0, 1e3])
    stretch, gain = invertible_product(t)
    torch.testing.assert_close(1 + t[1:] * stretch[1:], gain[1:], rtol=1e-9, atol=1e-12)
    assert bool((gain > 0).all())
    assert bool((gain.diff() > 0).all()), "every allowed product is reached once"
    assert invertible_product(torch.tensor([-1e12], dtype=torch.float32))[1].item() > 0


def test_sylvester_with_one_component_is_planar():
    sylvester, x = drawn("sylvester, one component", 1.0)
    q, r, r_tilde, _ = sylvester.factors()
    planar = Planar(4)
    with torch.no_grad():
        planar.w.copy_(r_tilde[0, 0] * q[:, 0])
        planar.b.copy_(sylvester.b[0])
        # u of the planar flow is the one whose û is Q r.
        planar.u.copy_(sylvester.triangles[0, 0] * q[:, 0])
    torch.testing.assert_close(planar.direction_and_gain()[0], r[0, 0] * q[:, 0])
    for ours, theirs in zip(sylvester.forward_and_logdet(x), planar.forward_and_logdet(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sylvesters_factors_have_their_shapes():
    sylvester, _ = drawn("sylvester", 10.0)
    q, r, r_tilde, gain = sylvester.factors()
    assert (q.T @ q - torch.eye(2)).abs().max() < 1e-12
    assert torch.equal(r, r.triu())
    assert torch.equal(r_tilde, r_tilde.triu())
    assert r[0, 1] != 0
    assert r_tilde[0, 1] != 0
    torch.testing.assert_close(1 + r.diagonal() * r_tilde.diagonal(), gain)


@pytest.mark.parametrize(("name", "equations"), [("planar", 1), ("sylvester", 2)])
def test_an_inverse_that_does_not_converge_raises_an_error(name, equations):
    bijection, x = drawn(name, 1.0, inverse=Bisection(max_iterations=3))
    z = bijection(x).detach()
    with pytest.raises(
        InversionError, match=r"did not reach its tolerance: .* after 3 bisection steps\. Raise max_iter"
    ):
        bijection.inverse(z)
    solution = bijection.solve(z)
    assert not bool(solution.converged.all())
    assert solution.iterations.max() == 3 * equations
    with pytest.raises(InversionError, match=r"^bijection: the inverse of"):
        Flow(x.shape[1:], bijection).inverse(z)


def test_the_error_for_nan_names_its_cause():
    bijection, x = drawn("planar", 1.0)
    with pytest.raises(InversionError, match=r"1 of 20 samples, sample 2 within nan.*not finite"):
        bijection.inverse(x.index_fill(0, torch.tensor([2]), float("nan")))


def test_inputs_and_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"Planar\(3\) takes vectors \(batch, 3\), not \(2, 3, 1, 1\)"):
        Planar(3)(torch.zeros(2, 3, 1, 1))
    with pytest.raises(ShapeError, match=r"Sylvester\(3\) takes vectors .*, not \(2, 4\)"):
        Sylvester(3, 2).inverse(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"Sylvester\(3, 4\): components must lie in 1 … 3"):
        Sylvester(3, 4)
