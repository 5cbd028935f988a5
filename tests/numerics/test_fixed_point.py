"""Picard and Anderson: rate, tolerance on the step, error bound, per-sample work, honest failure."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from contraflow.numerics import Anderson, Picard

SOLVERS = [Picard(), Anderson(), Anderson(memory=2)]


def linear_map(L: float, dimensions: int = 5, *, symmetric: bool = True) -> tuple[Tensor, Tensor]:
    """A with ‖A‖₂ = L, and b."""
    rotation = torch.linalg.qr(torch.randn(dimensions, dimensions))[0]
    other = rotation if symmetric else torch.linalg.qr(torch.randn(dimensions, dimensions))[0]
    return rotation @ torch.diag(torch.linspace(-L, L, dimensions)) @ other.T, torch.randn(dimensions)


@pytest.mark.parametrize("L", [0.3, 0.6, 0.9])
def test_picard_converges_at_the_rate_of_the_contraction(L):
    matrix, b = linear_map(L)
    counts = range(6, 18)
    residuals = [
        Picard(0.0, count).solve(lambda x, rows: x @ matrix.T + b, torch.zeros(1, 5)).residual.item()
        for count in counts
    ]
    rate, _ = np.polyfit(counts, np.log(residuals), 1)
    assert rate == pytest.approx(math.log(L), rel=0.02)


@pytest.mark.parametrize("solver", [Picard, Anderson])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-9])
def test_the_tolerance_is_on_the_root_mean_square_step_itself(solver, tolerance):
    matrix, b = linear_map(0.9, symmetric=False)
    start = torch.randn(8, 5)
    found = solver(tolerance).solve(lambda x, rows: x @ matrix.T + b, start)
    step = (found.value @ matrix.T + b - found.value).square().mean(dim=1).sqrt()
    assert found.converged.all()
    assert (step <= tolerance).all()
    torch.testing.assert_close(found.residual, step * math.sqrt(5), rtol=1e-6, atol=1e-15)
    # One evaluation fewer does not arrive, so the rule is not stricter than it says.
    before = solver(tolerance, int(found.iterations.max()) - 1).solve(lambda x, rows: x @ matrix.T + b, start)
    assert not before.converged.all()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("L", [0.5, 0.95])
def test_the_error_bound_holds_against_the_truth(solver, L):
    matrix, b = linear_map(L, symmetric=False)
    truth = torch.linalg.solve(torch.eye(5) - matrix, b)
    for tolerance in (1e-2, 1e-6):
        found = type(solver)(tolerance).solve(lambda x, rows: x @ matrix.T + b, torch.randn(10, 5))
        assert ((found.value - truth).norm(dim=1) <= found.error_bound(L) * (1 + 1e-9) + 1e-14).all()


def test_no_error_bound_without_a_contraction():
    found = Picard().solve(lambda x, rows: x / 2, torch.ones(2, 1))
    assert found.error_bound(1.0).isinf().all()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_samples_leave_the_batch_when_they_arrive(solver):
    widths: list[int] = []
    start = torch.tensor([[0.0], [1e-8], [1e-3], [1.0], [1e3]])

    def function(x: Tensor, rows: Tensor) -> Tensor:
        widths.append(len(x))
        assert len(rows) == len(x)
        return 0.7 * x.sin() if isinstance(solver, Anderson) else 0.7 * x

    found = solver.solve(function, start)
    assert found.converged.all()
    assert sum(widths) == int(found.iterations.sum())
    assert len(found.iterations.unique()) >= 3
    assert found.iterations[0] == 1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_each_sample_uses_its_own_rows(solver):
    z = torch.randn(6, 3) * torch.tensor([1e-6, 1.0, 10.0, 0.1, 5.0, 1e-3])[:, None]
    found = solver.solve(lambda x, rows: z[rows] - 0.6 * x.tanh(), z)
    torch.testing.assert_close(found.value + 0.6 * found.value.tanh(), z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_nan_sample_is_reported_and_does_not_stop_the_others(solver):
    start = torch.tensor([[1.0], [float("nan")], [2.0]])
    found = solver.solve(lambda x, rows: x / 2, start)
    assert found.converged.tolist() == [True, False, True]
    assert found.iterations[1] == 1


@pytest.mark.parametrize("solver", [Picard(max_iterations=40), Anderson(max_iterations=40)], ids=str)
def test_running_out_of_iterations_is_not_convergence(solver):
    found = solver.solve(lambda x, rows: x + 1, torch.zeros(2, 1))
    assert not found.converged.any()
    assert (found.iterations <= 40).all()


def test_the_default_tolerance_follows_the_dtype():
    assert Picard().tolerance_for(torch.float32) == 1e-5
    assert Picard().tolerance_for(torch.float64) == 1e-11
    assert Picard(1e-3).tolerance_for(torch.float64) == 1e-3


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_an_empty_batch_and_the_callers_start(solver):
    assert solver.solve(lambda x, rows: x / 2, torch.zeros(0, 3)).value.shape == (0, 3)
    start = torch.ones(2, 3)
    solver.solve(lambda x, rows: x / 2, start)
    assert torch.equal(start, torch.ones(2, 3))


def test_anderson_solves_a_stiff_linear_problem_that_picard_crawls_through():
    matrix, b = linear_map(0.995, 6)
    options = {"tolerance": 1e-9, "max_iterations": 20_000}
    picard = Picard(**options).solve(lambda x, rows: x @ matrix.T + b, torch.zeros(1, 6))
    anderson = Anderson(**options, memory=6).solve(lambda x, rows: x @ matrix.T + b, torch.zeros(1, 6))
    truth = torch.linalg.solve(torch.eye(6) - matrix, b)
    torch.testing.assert_close(anderson.value[0], truth, rtol=0, atol=1e-6)
    assert picard.iterations.item() > 1000
    assert anderson.iterations.item() <= 50


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("L", [0.5, 0.9, 0.98])
def test_anderson_never_takes_many_more_evaluations_than_picard(seed, L):
    """Nonlinear maps: its safeguard costs at most a rejected step for each accepted one, and mostly it is far ahead."""
    torch.manual_seed(seed)
    matrix, b = linear_map(L, 8, symmetric=False)

    def function(x: Tensor, rows: Tensor) -> Tensor:
        return torch.tanh(x @ matrix.T + b)

    start = 3 * torch.randn(20, 8)
    picard, anderson = Picard(1e-8).solve(function, start), Anderson(1e-8).solve(function, start)
    assert anderson.converged.all()
    torch.testing.assert_close(anderson.value, picard.value, rtol=0, atol=1e-6)
    assert (anderson.iterations <= 1.2 * picard.iterations + 3).all()


def test_anderson_goes_on_from_the_best_point_after_a_step_that_grew():
    """On a triangle wave extrapolation overshoots; every evaluation after a longer step is at T(best point)."""
    matrix, b = linear_map(0.98, 3, symmetric=False)
    seen: list[tuple[Tensor, Tensor]] = []

    def function(x: Tensor, rows: Tensor) -> Tensor:
        h = x @ matrix.T + b
        image = (h - 2 * torch.round(h / 2)).abs()
        seen.append((x[0].clone(), image[0].clone()))
        return image

    rejected = 0
    for start in 3 * torch.randn(20, 1, 3):
        seen.clear()
        assert Anderson(1e-8, 5000).solve(function, start).converged.all()
        best, best_image = math.inf, torch.zeros(3)
        for (x, image), (following, _) in itertools.pairwise(seen):
            step = (image - x).norm().item()
            if step >= best:
                rejected += 1
                assert torch.equal(following, best_image)
            else:
                best, best_image = step, image
    assert rejected > 5


def random_contraction(kind: str, L: float, dimensions: int) -> Tensor:
    """A random matrix of spectral norm L."""
    matrix = torch.randn(dimensions, dimensions)
    matrix = {"symmetric": matrix + matrix.T, "skew": matrix - matrix.T, "non-normal": matrix}[kind]
    return matrix * (L / torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 1000])
@pytest.mark.parametrize("kind", ["symmetric", "skew", "non-normal"])
def test_anderson_is_never_worse_than_picard_on_random_linear_contractions(kind, batch, dtype):
    for L in (0.3, 0.6, 0.95):
        for dimensions in (2, 5, 20):
            torch.manual_seed(1)
            matrix, b = random_contraction(kind, L, dimensions).to(dtype), torch.randn(dimensions, dtype=dtype)
            start = torch.randn(batch, dimensions, dtype=dtype)
            picard, anderson = (
                solver(1e-5, 3000).solve(lambda x, rows, A=matrix, b=b: x @ A.T + b, start, contraction=L)
                for solver in (Picard, Anderson)
            )
            assert picard.converged.all()
            assert anderson.converged.all()
            assert (anderson.iterations <= picard.iterations).all()
            assert anderson.value.dtype == dtype
            truth = torch.linalg.solve(torch.eye(dimensions) - matrix.double(), b.double())
            rounding = 100 * torch.finfo(dtype).eps * (1 + truth.norm()) / (1 - L)
            assert ((anderson.value - truth).norm(dim=1) <= anderson.error_bound(L) + rounding).all()


def test_an_exact_contraction_leaves_credit_for_an_extrapolation():
    """A turn by 90° that contracts by exactly L: plain steps never get ahead of L^k."""
    matrix = 0.95 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    found = Anderson(1e-6).solve(lambda x, rows: x @ matrix.T + 1, torch.randn(10, 2), contraction=0.95)
    assert (found.iterations <= 8).all()


@pytest.mark.parametrize("L", [0.7, 0.9])
@pytest.mark.parametrize("kind", ["skew", "non-normal"])
def test_the_newest_differences_decide_where_memory_exceeds_the_dimension(kind, L):
    """Two differences span a plane, and the newest fit a nonlinear T best: three older ones must not get in the way.

    Means over 200 fixed starts: at most 1.03 times the evaluations that memory 2 takes. With one λ for all ages,
    of 1e-10 or of 1e-5, it is 1.16 times or more.
    """
    matrix, b = random_contraction(kind, L, 2), torch.randn(2)
    start = 3 * torch.randn(200, 2)
    two, five = (
        Anderson(1e-10, memory=memory).solve(lambda x, rows: torch.tanh(x @ matrix.T + b), start, contraction=L)
        for memory in (2, 5)
    )
    assert five.converged.all()
    assert five.iterations.sum() <= 1.08 * two.iterations.sum()


@pytest.mark.parametrize("L", [0.5, 0.9])
def test_useless_extrapolations_cost_two_evaluations_at_most(monkeypatch, L):
    """Whatever is proposed, the best step stays below L^(k-3) times the first one."""

    def rubbish(search):
        return 5 * torch.randn_like(search.f)

    monkeypatch.setattr("contraflow.numerics.fixed_point._AndersonSearch._correction", rubbish)
    matrix = L * torch.linalg.qr(torch.randn(4, 4))[0]
    start = torch.randn(50, 4)
    first = (start @ matrix.T + 1 - start).norm(dim=1)
    for evaluations in range(1, 30):
        found = Anderson(0.0, evaluations).solve(lambda x, rows: x @ matrix.T + 1, start, contraction=L)
        assert (found.residual <= L ** max(0, evaluations - 3) * first + 1e-13).all()


@pytest.mark.parametrize("solver", [Picard(1e-12), Anderson(1e-12)], ids=str)
def test_a_tolerance_below_rounding_ends_soon_and_is_not_called_convergence(solver):
    start = 100 * torch.randn(50, 3, dtype=torch.float32)
    offset = 100 * torch.randn(50, 3, dtype=torch.float32)
    found = solver.solve(lambda x, rows: offset[rows] - 0.5 * x.sin(), start, contraction=0.5)
    stalled = found.residual > 1e-12 * math.sqrt(3)
    assert stalled.any()
    assert torch.equal(found.converged, ~stalled)
    assert (found.iterations <= 60).all()
    assert found.residual.max() < 1e-4
