r"""Two-dimensional distributions along curves: moons, two spirals, swiss roll, pinwheel.

The first three are curves c(t) blurred by noise, p(x) = ∫ p(t) k(x − c(t)) dt with a kernel k in closed form. The
integral over t is done by Gauss-Legendre quadrature in float64; the node counts below put its error under 1e-8 nats
where the density matters (doubling them changes nothing there; a test asks for that).

Distributions as in Grathwohl et al., "FFJORD", 2019 (arXiv:1810.01367); the first and third follow the definitions of
scikit-learn's ``make_moons`` and ``make_swiss_roll``, with the curve parameter of the moons uniform and not on a grid.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor

MOON_NODES, SPIRAL_NODES, ROLL_NODES = 100, 400, 240
_MOON_STD, _MOON_SHIFT = 0.2, (-1.0, -0.2)
_SPIRAL_STD, _SPIRAL_BOX = 0.1, 0.5 / 3
_ROLL_STD = 0.2
_ARMS, _RADIAL_STD, _TANGENTIAL_STD, _RATE = 5, 0.3, 0.1, 0.25


@cache
def _unit_quadrature(nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and log-weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2).log()


def _blurred(x: Tensor, curve: Tensor, log_weights: Tensor, std: float) -> Tensor:
    """log Σ_j w_j N(x; c_j, std² I)."""
    squares = (x[:, None, :] - curve.to(x.device)).square().sum(2)
    log_terms = log_weights.to(x.device) - squares / (2 * std**2)
    return torch.logsumexp(log_terms, dim=1) - math.log(2 * math.pi * std**2)


def _moon(t: Tensor, lower: Tensor) -> Tensor:
    """Upper half circle (cos t, sin t) or lower one (1 − cos t, ½ − sin t); then 2c + (−1, −0.2)."""
    x = torch.where(lower, 1 - t.cos(), t.cos())
    y = torch.where(lower, 0.5 - t.sin(), t.sin())
    return 2 * torch.stack([x, y], dim=1) + torch.tensor(_MOON_SHIFT, dtype=t.dtype)


def draw_moons(n: int, generator: Generator | None) -> Tensor:
    """x = 2 (c(t) + 0.1 ε) + (−1, −0.2), t ~ U(0, π) on either half circle."""
    t = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    lower = torch.randint(0, 2, (n,), generator=generator).bool()
    return _moon(t, lower) + _MOON_STD * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def moons_log_density(x: Tensor, nodes: int = MOON_NODES) -> Tensor:
    """By quadrature over t."""
    unit, log_weights = _unit_quadrature(nodes)
    t = math.pi * unit.repeat(2)
    curve = _moon(t, torch.arange(2 * nodes) >= nodes)
    return _blurred(x, curve, log_weights.repeat(2) - math.log(2), _MOON_STD)


def _spiral(s: Tensor) -> Tensor:
    """(−n cos n, n sin n) / 3 with n = 3π s, one and a half turns; uniform over the disc when s² is uniform."""
    n = 3 * math.pi * s
    return torch.stack([-n * n.cos(), n * n.sin()], dim=1) / 3


def draw_two_spirals(n: int, generator: Generator | None) -> Tensor:
    """x = ±(c(s) + u) + 0.1 ε, s² ~ U(0, 1), u ~ U(0, 1/6)²."""
    s = torch.rand(n, generator=generator, dtype=torch.float64).sqrt()
    box = _SPIRAL_BOX * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    sign = 1 - 2 * torch.randint(0, 2, (n, 1), generator=generator)
    return sign * (_spiral(s) + box) + _SPIRAL_STD * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _log_interval(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) − Φ(low)), accurate in both tails."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log1p(-torch.exp(torch.special.log_ndtr(low) - log_high))


def two_spirals_log_density(x: Tensor, nodes: int = SPIRAL_NODES) -> Tensor:
    """By quadrature over s; given s, each coordinate is a uniform blurred by a Gaussian: a difference of two Φ."""
    s, log_weights = _unit_quadrature(nodes)
    log_weights = (log_weights + (2 * s).log()).to(x.device)  # s² uniform: p(s) = 2s
    distance = torch.cat([x, -x])[:, None, :] - _spiral(s).to(x.device)
    log_kernel = _log_interval((distance - _SPIRAL_BOX) / _SPIRAL_STD, distance / _SPIRAL_STD).sum(2)
    of_each_arm = torch.logsumexp(log_weights + log_kernel, dim=1).reshape(2, len(x))
    return torch.logsumexp(of_each_arm, dim=0) - math.log(2) - 2 * math.log(_SPIRAL_BOX)


def _roll(unit: Tensor) -> Tensor:
    """t (cos t, sin t) / 5 with t = 1.5 π (1 + 2u)."""
    t = 1.5 * math.pi * (1 + 2 * unit)
    return torch.stack([t * t.cos(), t * t.sin()], dim=1) / 5


def draw_swiss_roll(n: int, generator: Generator | None) -> Tensor:
    """x = c(u) + 0.2 ε, u ~ U(0, 1)."""
    unit = torch.rand(n, generator=generator, dtype=torch.float64)
    return _roll(unit) + _ROLL_STD * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def swiss_roll_log_density(x: Tensor, nodes: int = ROLL_NODES) -> Tensor:
    """By quadrature over u."""
    unit, log_weights = _unit_quadrature(nodes)
    return _blurred(x, _roll(unit), log_weights, _ROLL_STD)


def draw_pinwheel(n: int, generator: Generator | None) -> Tensor:
    """x = 2 R(2πk/5 + ¼ e^r)ᵀ (r, t), r ~ N(1, 0.3²), t ~ N(0, 0.1²), k one of five arms.

    No density is offered: the angle depends on the coordinate r and not on the radius √(r² + t²), so the map has
    determinant 1 ± ¼ e^r t and folds over itself where that vanishes, and its inverse has no closed form.
    """
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    r, t = 1 + _RADIAL_STD * noise[:, 0], _TANGENTIAL_STD * noise[:, 1]
    arm = torch.randint(0, _ARMS, (n,), generator=generator)
    angle = 2 * math.pi * arm / _ARMS + _RATE * r.exp()
    return 2 * torch.stack([r * angle.cos() + t * angle.sin(), t * angle.cos() - r * angle.sin()], dim=1)
