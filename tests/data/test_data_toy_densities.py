"""Two-dimensional densities: they integrate to one, and their samples come from them."""

import math

import pytest
import torch

from contraflow.data import TOY_DENSITIES
from contraflow.data.sets import toy_curves as curves
from contraflow.errors import ShapeError

WITH_DENSITY = [name for name, toy in TOY_DENSITIES.items() if toy.log_prob is not None]
SMOOTH = [name for name in WITH_DENSITY if name != "checkerboard"]


def grid(half_width=5.5, points=160):
    """Midpoints of square cells, float64, and the area of a cell."""
    step = 2 * half_width / points
    axis = -half_width + step * (torch.arange(points, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), step**2


@pytest.mark.parametrize("name", SMOOTH)
def test_integral_and_samples(name):
    """∫p = 1, and the mean log-density of samples is ∫ p log p within 4 standard errors."""
    toy = TOY_DENSITIES[name]
    points, area = grid()
    log_p = toy.log_prob(points)
    p = log_p.exp()
    assert float(p.sum() * area) == pytest.approx(1, abs=1e-6)
    negative_entropy = float((p * log_p).sum() * area)
    scores = toy.log_prob(toy.sample(4000, torch.Generator().manual_seed(0)).double())
    error = float(scores.std()) / math.sqrt(len(scores))
    assert abs(float(scores.mean()) - negative_entropy) < 4 * error


@pytest.mark.parametrize("name", SMOOTH)
def test_samples_fill_the_cells_as_the_density_says(name):
    """χ² over a coarse grid; what the mean of log p cannot see is a mirrored or turned picture."""
    toy = TOY_DENSITIES[name]
    points, area = grid(half_width=6.0, points=144)
    mass = (toy.log_prob(points).exp() * area).reshape(12, 12, 12, 12).sum((1, 3)).flatten()
    draws = toy.sample(20_000, torch.Generator().manual_seed(1))
    cell = ((draws + 6.0).floor().clamp(0, 11)).long()
    counts = torch.bincount(cell[:, 0] * 12 + cell[:, 1], minlength=144)
    expected = mass * len(draws)
    full = expected > 5
    chi_squared = float(((counts - expected).square() / expected)[full].sum())
    freedom = int(full.sum()) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)
    assert float(counts[~full].sum()) < 5 + 3 * float(expected[~full].sum())


def test_checkerboard_exactly():
    toy = TOY_DENSITIES["checkerboard"]
    assert toy.entropy == math.log(32)
    draws = toy.sample(20_000, torch.Generator().manual_seed(0))
    assert (toy.log_prob(draws) == -torch.tensor(math.log(32.0))).all()
    points, area = grid(half_width=6.0, points=120)
    p = toy.log_prob(points).exp()
    assert float(p.sum() * area) == pytest.approx(1, abs=1e-12)


def test_checkerboard_squares():
    log_prob = TOY_DENSITIES["checkerboard"].log_prob
    centres = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    board = torch.isfinite(log_prob(torch.cartesian_prod(centres, centres))).reshape(4, 4)
    assert board.tolist() == [[(i + j) % 2 == 0 for j in range(4)] for i in range(4)]
    assert not torch.isfinite(log_prob(torch.tensor([[5.0, 1.0], [1.0, 5.0], [-4.5, -3.0]]))).any()


@pytest.mark.parametrize(
    ("log_density", "nodes"),
    [
        (curves.moons_log_density, curves.MOON_NODES),
        (curves.two_spirals_log_density, curves.SPIRAL_NODES),
        (curves.swiss_roll_log_density, curves.ROLL_NODES),
    ],
)
def test_quadrature_has_converged(log_density, nodes):
    points, _ = grid(half_width=4.0, points=20)
    fine = log_density(points, nodes=2 * nodes)
    dense = fine > -25
    assert float((log_density(points, nodes=nodes) - fine)[dense].abs().max()) < 1e-8


def test_pinwheel_moments():
    """E‖x‖² = 4 (1 + 0.3² + 0.1²), and five-fold symmetry puts the mean at the origin."""
    draws = TOY_DENSITIES["pinwheel"].sample(100_000, torch.Generator().manual_seed(0)).double()
    assert float(draws.square().sum(1).mean()) == pytest.approx(4.4, abs=0.04)
    assert float(draws.mean(0).abs().max()) < 0.03


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_samples_repeat_and_stay_in_the_picture(name):
    toy = TOY_DENSITIES[name]
    first, again = (toy.sample(1000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert first.shape == (1000, 2)
    assert float(first.abs().max()) < 6.5
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        toy.sample(0)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_log_prob_far_away_and_its_shape(name):
    log_prob = TOY_DENSITIES[name].log_prob
    values = log_prob(torch.tensor([[40.0, -40.0], [0.5, 0.5]]))
    assert values.dtype == torch.float32
    assert not torch.isnan(values).any()
    assert float(values[0]) < -300
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        log_prob(torch.zeros(3, 3))
