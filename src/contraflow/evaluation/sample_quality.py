"""Quality of samples: FID and KID, distances between sets of image features, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, ShapeError

GROUPS = 10
"""Number of groups of the jackknife, each left out in turn."""


@dataclass(frozen=True)
class Distance:
    """A distance between two sets and its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


@dataclass(frozen=True)
class QualityReport:
    """Distances of images from reference images.

    Attributes:
        name: of the set of images.
        fid, kid: see `frechet_distance` and `kernel_distance`.
        images, reference: numbers of images.
        features: name of the features in which distances are computed.
        published: whether published FIDs use these features; others cannot be compared with published FIDs.
    """

    name: str
    fid: Distance
    kid: Distance
    images: int
    reference: int
    features: str
    published: bool

    def __str__(self) -> str:
        fid, kid = (
            ("FID", "KID") if self.published else (f"{name} on {self.features} features" for name in ("FID", "KID"))
        )
        return f"{self.name}: {fid} {self.fid}, {kid} {self.kid} ({self.images} images against {self.reference})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_quality(
    name: str,
    images: Tensor,
    reference: Tensor,
    features: str,
    published: bool,
    generator: Generator | None = None,
) -> QualityReport:
    """FID and KID between features of images and of reference images, ``(n, d)`` and ``(m, d)``."""
    fid, kid = (
        with_error(distance, images, reference, generator=generator) for distance in (frechet_distance, kernel_distance)
    )
    return QualityReport(name, fid, kid, len(images), len(reference), features, published)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Fréchet distance ‖µ₁ − µ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of the Gaussians fitted to each set.

    With Σ = RᵀR, the trace of (Σ₁Σ₂)^½ is the nuclear norm of R₁R₂ᵀ, which needs no square root of a matrix and is
    exact also for fewer rows than features. This is the FID if the features are those of the Inception network:
    M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017
    (arXiv:1706.08500). The distance has an upward bias that depends on the number of rows, so compare only distances of
    the same number of rows: M. Chong, D. Forsyth, "Effectively unbiased FID", 2020 (arXiv:1911.07023).

    Args:
        first, second: ``(n, d)`` and ``(m, d)``.

    >>> x = torch.randn(100, 5, dtype=torch.float64)
    >>> round(frechet_distance(x, x + 2), 6)
    20.0
    """
    _check(first, second)
    first, second = first.double(), second.double()
    r1, r2 = _root(first), _root(second)
    gap = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    spread = r1.square().sum() + r2.square().sum() - 2 * torch.linalg.matrix_norm(r1 @ r2.T, "nuc")
    return (gap + spread).item()


def _root(x: Tensor) -> Tensor:
    """R with RᵀR the covariance of the rows."""
    return torch.linalg.qr(x - x.mean(dim=0), mode="r").R / math.sqrt(len(x) - 1)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Squared maximum mean discrepancy under k(x, y) = (x·y/d + 1)³, estimated without bias, so possibly negative.

    This is the KID if the features are those of the Inception network: M. Bińkowski et al., "Demystifying MMD GANs",
    2018 (arXiv:1801.01401). They average over subsets of 1,000 rows; all rows at once have the same mean, less noise.

    Args:
        first, second: ``(n, d)`` and ``(m, d)``.

    >>> x, y = torch.randn(200, 5).double(), torch.randn(200, 5).double()
    >>> kernel_distance(x, y + 1) > 100 * abs(kernel_distance(x, y))
    True
    """
    _check(first, second)
    first, second = first.double(), second.double()
    between = _kernel(first, second).mean()
    return (_mean_off_diagonal(first) + _mean_off_diagonal(second) - 2 * between).item()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_off_diagonal(x: Tensor) -> Tensor:
    kernel = _kernel(x, x)
    return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))


def _check(first: Tensor, second: Tensor) -> None:
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ShapeError(
            f"features of shape {tuple(first.shape)} and {tuple(second.shape)}: expected (n, d) and (m, d) with at "
            "least two rows each."
        )


def with_error(
    distance: Callable[[Tensor, Tensor], float],
    first: Tensor,
    second: Tensor,
    groups: int = GROUPS,
    generator: Generator | None = None,
) -> Distance:
    """A distance and its standard error by the delete-a-group jackknife.

    SE² = (g − 1)/g Σ_i (θ_i − θ̄)², where θ_i is the distance without group i of both sets: M. Quenouille 1956,
    J. Tukey 1958. Unlike the bootstrap it repeats no row, which would act on a Fréchet distance like a smaller set.

    Args:
        distance: of two sets of rows.
        first, second: the sets, in any order.
        groups: g; the relative error of the standard error is about 1/√(2(g − 1)).
        generator: of the division into groups.

    Raises:
        ConfigurationError: fewer than two groups, or fewer than two rows for each group.
    """
    if groups < 2 or min(len(first), len(second)) < 2 * groups:
        raise ConfigurationError(
            f"groups={groups} for {len(first)} and {len(second)} rows: expected at least two groups, and two rows of "
            "each set for each group."
        )
    member = [torch.randperm(len(rows), generator=generator) % groups for rows in (first, second)]
    left_out = torch.tensor(
        [distance(first[member[0] != group], second[member[1] != group]) for group in range(groups)],
        dtype=torch.float64,
    )
    error = math.sqrt((groups - 1) / groups * (left_out - left_out.mean()).square().sum().item())
    return Distance(distance(first, second), error)
