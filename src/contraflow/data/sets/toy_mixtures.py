r"""Two-dimensional distributions with a density in closed form: checkerboard, Gaussians, rings.

The distributions are those used by Grathwohl et al., "FFJORD", 2019 (arXiv:1810.01367) and Chen et al., "Residual
Flows", 2019 (arXiv:1906.02735). Where those place ring angles on a grid, here they are uniform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

CHECKERBOARD_ENTROPY = math.log(32.0)
"""Nats: the board covers eight squares of side 2, an area of 32."""

_GAUSSIAN_STD, _GAUSSIAN_RADIUS, _GAUSSIAN_DIVISOR = 0.5, 4.0, 1.414
RINGS = ((3.0, 2.25, 1.5, 0.75), 0.08)
"""Radii and standard deviation of the noise."""
CIRCLES = ((3.0, 1.5), 0.24)
"""Radii 1 and ½ with noise 0.08, all times 3."""


def draw_checkerboard(n: int, generator: Generator | None) -> Tensor:
    """x₁ = 2a, x₂ = 2(b − 2c + ⌊a⌋ mod 2) with a ~ U(−2, 2), b ~ U(0, 1), c a fair coin."""
    a = torch.rand(n, generator=generator, dtype=torch.float32) * 4 - 2
    b = torch.rand(n, generator=generator, dtype=torch.float32)
    c = torch.randint(0, 2, (n,), generator=generator)
    return 2 * torch.stack([a, b - 2 * c + torch.floor(a) % 2], dim=1)


def checkerboard_log_density(x: Tensor) -> Tensor:
    """−log 32 on the black squares, −∞ elsewhere."""
    a, height = (x / 2).unbind(1)
    b = height - torch.floor(a) % 2
    # The upper edges count as inside: in float32 a draw b just below 1 can round up to the edge.
    black = (a >= -2) & (a < 2) & (((b >= 0) & (b <= 1)) | ((b >= -2) & (b <= -1)))
    return torch.full_like(a, -math.inf).masked_fill(black, -CHECKERBOARD_ENTROPY)


def _gaussian_centres() -> Tensor:
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _GAUSSIAN_RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def draw_eight_gaussians(n: int, generator: Generator | None) -> Tensor:
    """x = (c_k + ½ ε) / 1.414, centres c_k in eight directions at radius 4."""
    centres = _gaussian_centres()[torch.randint(0, 8, (n,), generator=generator)]
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return (centres + _GAUSSIAN_STD * noise) / _GAUSSIAN_DIVISOR


def eight_gaussians_log_density(x: Tensor) -> Tensor:
    """log ⅛ Σ_k N(x; c_k / 1.414, (½ / 1.414)² I)."""
    std = _GAUSSIAN_STD / _GAUSSIAN_DIVISOR
    centres = _gaussian_centres().to(x.device) / _GAUSSIAN_DIVISOR
    squares = (x[:, None, :] - centres).square().sum(2)
    return torch.logsumexp(-squares / (2 * std**2), dim=1) - math.log(8 * 2 * math.pi * std**2)


def draw_rings(n: int, generator: Generator | None, radii: Sequence[float], std: float) -> Tensor:
    """x = r_k (cos φ, sin φ) + std ε, k and φ uniform."""
    chosen = torch.randint(0, len(radii), (n,), generator=generator)
    radius = torch.tensor(radii, dtype=torch.float64)[chosen]
    angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) + std * noise


def rings_log_density(x: Tensor, radii: Sequence[float], std: float) -> Tensor:
    r"""A Gaussian averaged over a circle of radius r is a Bessel function of ρ = ‖x‖:

    p_r(x) = exp(−(ρ − r)²/2σ²) · e^{−ρr/σ²} I₀(ρr/σ²) / 2πσ².
    """
    radius = torch.tensor(radii, dtype=x.dtype, device=x.device)
    rho = x.norm(dim=1, keepdim=True)
    log_kernel = -(rho - radius).square() / (2 * std**2) + torch.special.i0e(rho * radius / std**2).log()
    return torch.logsumexp(log_kernel, dim=1) - math.log(len(radii) * 2 * math.pi * std**2)
