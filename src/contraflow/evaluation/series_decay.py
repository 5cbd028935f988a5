"""How fast the terms of the power series of each block's log-determinant decrease."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from contraflow.bijections import ContractionBlock
from contraflow.flow import Flow
from contraflow.logdet import Determinant, GeneralEstimator
from contraflow.logdet.estimators import Estimate, Linearize, roulette
from contraflow.logdet.probes import Rademacher


@dataclass(frozen=True)
class BlockSeries:
    r"""The series log|det(I + J)| = E Σ_k (-1)^(k+1)/k vᵀJᵏv of one block.

    Attributes:
        name: of the block in the flow.
        sizes: root mean square over rows and probes of vᵀJᵏv / k, k = 1, 2, …; in nats.
        decay: (‖(Jᵀ)ᵏv‖ / ‖Jᵀv‖)^{1/(k-1)} at the last k, norms in root mean square over rows: the factor by which
            ‖(Jᵀ)ᵏv‖ decreases from term to term, an estimate of the spectral radius ρ at the data.
    """

    name: str
    sizes: tuple[float, ...]
    decay: float


@dataclass(frozen=True)
class _Recorder(GeneralEstimator):
    """An estimator that computes a fixed number of terms and records their sizes and norms, block by block."""

    terms: int
    records: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        v = Rademacher().sample((1, *x.shape), x, generator)
        sizes: list[float] = []
        norms: list[float] = []

        def watch(u: Tensor, inner: Tensor) -> None:
            sizes.append(inner.double().square().mean().sqrt().item() / (len(sizes) + 1))
            norms.append(u.double().flatten(2).square().sum(dim=2).mean().sqrt().item())

        terms = torch.full((len(x),), self.terms, device=x.device)
        estimate = roulette(linearize, x, v, terms, lambda longest: [1.0] * longest, watch, determinant=determinant)
        self.records.append((sizes, norms))
        return estimate

    def __str__(self) -> str:
        return f"{self.terms} terms, recorded"


@torch.no_grad()
def series_decay(
    flow: Flow, x: Tensor, terms: int = 10, *, generator: Generator | None = None
) -> tuple[BlockSeries, ...]:
    """The first terms of the series of each residual block, at the points that the data are mapped to.

    Args:
        flow: any flow; one without residual blocks gives an empty tuple.
        x: ``(n, *event_shape)``.
        terms: number of terms, at least 2.
        generator: of probes and dequantisation noise.

    >>> from contraflow import residual_flow
    >>> blocks = series_decay(residual_flow((2,), blocks=3, hidden=(16,)), torch.randn(50, 2))
    >>> len(blocks), len(blocks[0].sizes), all(block.decay < 1 for block in blocks)
    (3, 10, True)
    """
    recorder = _Recorder(max(terms, 2))
    flow.with_logdet(recorder).log_prob(x.to(flow.device), generator=generator)
    names = [name for name, module in flow.named_modules() if isinstance(module, ContractionBlock)]
    return tuple(
        BlockSeries(name, tuple(sizes), _decay(norms))
        for name, (sizes, norms) in zip(names, recorder.records, strict=True)
    )


def _decay(norms: list[float]) -> float:
    if norms[-1] == 0:
        return 0.0  # g is constant, or the powers underflow
    return (norms[-1] / norms[0]) ** (1 / (len(norms) - 1))
