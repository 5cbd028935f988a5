"""Tests of calibration: are latents of held-out rows normal, and are probability integrals of columns uniform?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.architectures.hybrid_flow import MixtureFlow
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.flow import Flow


@dataclass(frozen=True)
class LatentNormality:
    """Kolmogorov–Smirnov tests of latent vectors against N(0, I).

    Attributes:
        dimensions: p-value of the most deviant dimension, times the number of dimensions (Bonferroni), at most 1.
        worst: the most deviant dimension.
        norm: p-value of ‖z‖² against χ² with as many degrees of freedom as dimensions.
        rows: number of latent vectors tested.
    """

    dimensions: float
    worst: int
    norm: float
    rows: int

    def __str__(self) -> str:
        return (
            f"latent against N(0, I): p = {self.dimensions:.3g} for the most deviant dimension ({self.worst}, with "
            f"Bonferroni correction), p = {self.norm:.3g} for the norms ({self.rows} rows)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def latent_normality(z: Tensor) -> LatentNormality:
    """Test held-out latents; at level α each test rejects an exact model with probability α.

    Args:
        z: ``(n, D)``, f(x) of rows that the flow was not trained on.

    Raises:
        ShapeError: z is not a matrix with at least one row.

    >>> z = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> fine, wide = latent_normality(z), latent_normality(1.2 * z)
    >>> fine.norm > 0.01, wide.norm < 1e-6
    (True, True)
    """
    if z.ndim != 2 or not z.numel():
        raise ShapeError(f"expected latent vectors (n, D) with n >= 1, not {tuple(z.shape)}.")
    from scipy import stats

    z = z.detach().double().cpu()
    values = [stats.kstest(column, "norm").pvalue for column in z.T.numpy()]
    worst = min(range(len(values)), key=values.__getitem__)
    norm = stats.kstest(z.square().sum(dim=1).numpy(), "chi2", args=(z.shape[1],)).pvalue
    return LatentNormality(min(1.0, len(values) * float(values[worst])), worst, float(norm), len(z))


@torch.no_grad()
def latents(
    flow: Flow, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 200, generator: Generator | None = None
) -> Tensor:
    """Latents f(x), ``(n, D)``, which should follow N(0, I).

    If the base is a mixture of class Gaussians, the mean of each row's class is subtracted.

    Args:
        flow: any flow.
        x: ``(n, *event_shape)``.
        labels: int64 ``(n,)``, all of them known; needed if the base is a mixture of class Gaussians.
        batch_size: number of rows in one pass.
        generator: of the dequantisation noise.

    Raises:
        ConfigurationError: the base is a mixture of class Gaussians and there are no labels.
    """
    if isinstance(flow, MixtureFlow) and labels is None:
        raise ConfigurationError("the base of this flow has a Gaussian for each class: give labels to centre latents.")
    parts = []
    for done in range(0, len(x), batch_size):
        z = flow(x[done : done + batch_size].to(flow.device), generator=generator)
        if isinstance(flow, MixtureFlow) and labels is not None:
            z = z - flow.base.means[labels[done : done + batch_size].to(flow.device)]
        parts.append(z.flatten(1).cpu())
    return torch.cat(parts)


def probability_integrals(x: Tensor, samples: Tensor) -> Tensor:
    """The share of samples below each value, column by column, ``(n, D)``: uniform if the model's marginals are exact.

    Ties count half. Dawid, Present position and potential developments: the prequential approach, 1984.

    Args:
        x: rows ``(n, D)``.
        samples: of the model, ``(m, D)``.

    Raises:
        ShapeError: x and samples are not tables with the same number of columns.

    >>> probability_integrals(torch.tensor([[0.5], [2.5]]), torch.tensor([[0.0], [1.0], [2.0], [3.0]])).flatten()
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if x.ndim != 2 or samples.ndim != 2 or x.shape[1] != samples.shape[1] or not len(samples):
        raise ShapeError(f"expected rows (n, D) and samples (m, D), not {tuple(x.shape)} and {tuple(samples.shape)}.")
    order, rows = samples.T.contiguous().sort(dim=1).values, x.T.contiguous().to(samples.dtype)
    below = torch.searchsorted(order, rows) + torch.searchsorted(order, rows, right=True)
    return below.T.double() / (2 * len(samples))
