"""Bisection: roots to rounding, a bracket that bounds the error, a rate of one bit an iteration."""

from __future__ import annotations

import pytest
import torch

from contraflow.numerics import Bisection, implicit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roots_to_rounding_at_every_scale(dtype):
    truth = torch.tensor([-1e6, -3.7, -1e-3, 0.0, 1e-3, 3.7, 1e6], dtype=dtype)
    root = Bisection().solve(lambda t: t - truth, truth - 5, truth + 11)
    limit = 8 * torch.finfo(dtype).eps * truth.abs().clamp_min(1)
    assert bool(root.converged.all())
    assert bool(((root.value - truth).abs() <= limit).all())
    assert root.value.dtype == dtype


def test_the_bracket_bounds_the_error_and_halves_each_time():
    truth, width = torch.linspace(-1, 1, 101), 4.0
    for iterations in (1, 5, 10, 20):
        root = Bisection(tolerance=0.0, max_iterations=iterations).solve(
            lambda t: t**3 - truth**3, truth - 1, truth - 1 + width
        )
        assert root.iterations.tolist() == [iterations] * 101
        assert not bool(root.converged.any())
        torch.testing.assert_close(root.error_bound, torch.full((101,), width / 2 ** (iterations + 1)))
        assert bool(((root.value - truth).abs() <= root.error_bound + 1e-15).all())
        torch.testing.assert_close(root.residual, (root.value**3 - truth**3).abs())


def test_each_number_has_its_own_iterations_and_stops_at_the_tolerance():
    lower, upper = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1024.0])
    root = Bisection(tolerance=0.01).solve(lambda t: t - 0.3, lower, upper)
    assert root.iterations.tolist() == [6, 16]
    assert bool((root.error_bound <= 0.01).all())
    assert bool(root.converged.all())


def test_nan_is_not_taken_for_a_root():
    root = Bisection().solve(lambda t: t, torch.tensor([float("nan"), -1.0]), torch.tensor([1.0, 2.0]))
    assert root.converged.tolist() == [False, True]
    root = Bisection().solve(lambda t: t * float("nan"), -torch.ones(1), torch.ones(1))
    assert root.converged.tolist() == [False]


def test_an_empty_batch():
    root = Bisection().solve(lambda t: t, torch.zeros(0), torch.zeros(0))
    assert root.value.shape == root.converged.shape == (0,)


def test_implicit_derivatives_are_those_of_the_closed_form():
    """t³ + ct = y: dt/dc = -t/(3t² + c), dt/dy = 1/(3t² + c), d²t/dy² = -6t/(3t² + c)³."""
    c, y = torch.tensor(2.0, requires_grad=True), torch.tensor([3.0, 12.0], requires_grad=True)
    with torch.no_grad():
        t = Bisection().solve(lambda t: t**3 + c * t - y, torch.zeros(2), torch.full((2,), 5.0)).value
    root = implicit(t, lambda t: (t**3 + c * t - y, 3 * t**2 + c))
    assert torch.equal(root.detach(), t)
    torch.testing.assert_close(t, torch.tensor([1.0, 2.0]))
    by_c, by_y = torch.autograd.grad(root[1], [c, y], create_graph=True)
    torch.testing.assert_close(by_c, torch.tensor(-2.0 / 14.0))
    torch.testing.assert_close(by_y, torch.tensor([0.0, 1.0 / 14.0]))
    (twice,) = torch.autograd.grad(by_y[1], y, create_graph=True)
    torch.testing.assert_close(twice, torch.tensor([0.0, -12.0 / 14.0**3]))
    (thrice,) = torch.autograd.grad(twice[1], y)
    # d³t/dy³ = (-6(3t² + c) + 108t²)/(3t² + c)⁵
    torch.testing.assert_close(thrice, torch.tensor([0.0, (-6 * 14 + 108 * 4) / 14.0**5]))
