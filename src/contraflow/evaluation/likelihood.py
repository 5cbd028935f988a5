"""Held-out likelihood with its standard error, and a Gaussian as the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections import Bijection
from contraflow.errors import ConfigurationError, DomainError
from contraflow.flow import Flow, LogProbEstimate
from contraflow.logdet import EVALUATION, LogDetEstimator

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """log p(x) of each row in nats: the mean over draws, and the standard error of this mean.

    Attributes:
        log_prob, standard_error: ``(n,)``, float64; the error is NaN for a single draw.
        draws: number of draws for each row; with a target error the largest number of any row.
        probes: number of draws for each row, ``(n,)``, long.
        reached: whether the standard error of a row is at most the target; all true without a target.
        class_probabilities: p(y|x) of a hybrid flow, averaged over the same draws, ``(n, classes)``, float64; ``None``
            for other flows.
    """

    log_prob: Tensor
    standard_error: Tensor
    draws: int
    probes: Tensor
    reached: Tensor
    class_probabilities: Tensor | None = None


@dataclass(frozen=True)
class LikelihoodReport:
    """A held-out score.

    Attributes:
        value, standard_error: in `unit`; the error covers data and estimator, since each row has its own probes,
            truncation and dequantisation noise, which add to the variance between rows.
        unit: ``bits/dim`` for images (lower is better), ``nats`` for other data (log p(x), higher is better).
        rows: number of test rows.
        estimator: name of the log-determinant estimator.
        draws: number of estimates averaged for each row, each with its own noise.
        dequantised: whether a draw includes dequantisation noise.
        variational: whether the noise was learned, so that the value is an evidence lower bound.
    """

    value: float
    standard_error: float
    unit: str
    rows: int
    estimator: str
    draws: int
    dequantised: bool
    variational: bool = False

    def __str__(self) -> str:
        images = self.unit == "bits/dim"
        facts = [f"{self.rows} {'images' if images else 'rows'}", self.estimator]
        if self.dequantised or self.draws > 1:
            noun = "dequantisation draw" if self.dequantised else "draw"
            noun = f"variational {noun}" if self.variational else noun
            facts.append(f"{self.draws} {noun}{'s' if self.draws != 1 else ''}")
        return f"{self.unit} {self.value:.3f} ± {self.standard_error:.3f} ({', '.join(facts)})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with null in place of numbers that are not finite."""
        return _finite(asdict(self))


@torch.no_grad()
def score(
    flow: Flow,
    x: Tensor,
    *,
    estimator: LogDetEstimator = EVALUATION,
    draws: int = 1,
    target_error: float | None = None,
    budget: int = 1000,
    batch_size: int = 200,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Scores:
    """log p(x) of each row, averaged over independent draws of all noise: `Flow.log_prob_estimate`, batch by batch.

    The scores of a hybrid flow include p(y|x), computed in the same passes.

    The standard error of a row needs two draws; with one draw it is NaN. The same generator state, batch size and dtype
    give the same noise on any number of threads; with another batch size the rows get other noise.

    Args:
        flow: any flow; its estimator is replaced by `estimator`.
        x: ``(n, *event_shape)``.
        estimator: of the log-determinant.
        draws: number of estimates for each row.
        target_error: standard error to reach for each row in nats, in place of `draws`.
        budget: largest number of estimates for a row under a target error.
        batch_size: number of rows in one pass.
        generator: source of all noise.
        progress: called with the number of rows done and the number of all rows.

    Raises:
        ConfigurationError: draws or batch size below 1.
        DomainError: a row is not finite, or its log p(x) is NaN; the message names the row.
    """
    if draws < 1 or batch_size < 1:
        raise ConfigurationError(f"draws={draws}, batch_size={batch_size}: both must be at least 1.")
    parts = []
    for done in range(0, len(x), batch_size):
        batch = x[done : done + batch_size].to(flow.device)
        try:
            estimate = flow.log_prob_estimate(
                batch,
                target_error=target_error,
                probes=draws if target_error is None else None,
                budget=budget,
                estimator=estimator,
                batch_size=len(batch),
                generator=generator,
            )
        except DomainError as error:
            raise DomainError(f"rows {done} to {done + len(batch) - 1}, numbered from {done}: {error}") from error
        parts.append(estimate)
        if progress is not None:
            progress(min(done + batch_size, len(x)), len(x))
    return _joined(parts, draws)


def _joined(parts: list[LogProbEstimate], draws: int) -> Scores:
    if not parts:
        empty, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        return Scores(empty, empty, draws, none, none.bool())
    value, error = torch.cat([part.value for part in parts]), torch.cat([part.standard_error for part in parts])
    probes, reached = torch.cat([part.probes for part in parts]), torch.cat([part.reached for part in parts])
    classes = [part.class_probabilities for part in parts if part.class_probabilities is not None]
    return Scores(value, error, int(probes.max()), probes, reached, torch.cat(classes) if classes else None)


def evaluate_likelihood(
    flow: Flow,
    x: Tensor,
    *,
    estimator: LogDetEstimator = EVALUATION,
    draws: int = 1,
    batch_size: int = 200,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> LikelihoodReport:
    """Mean held-out likelihood with its standard error: bits per dimension of images, nats of other data."""
    scores = score(
        flow, x, estimator=estimator, draws=draws, batch_size=batch_size, generator=generator, progress=progress
    )
    return report_scores(flow, scores, estimator)


def report_scores(flow: Flow, scores: Scores, estimator: LogDetEstimator) -> LikelihoodReport:
    """Summarise the scores that `score` computed with a flow and an estimator."""
    noise = flow.preprocessing.dequantisation
    summary = report(
        scores.log_prob,
        flow.event_shape,
        flow.with_logdet(estimator).estimator_name,
        scores.draws,
        noise == "variational",
    )
    return replace(summary, dequantised=summary.dequantised or noise is not None)


def report(
    log_prob: Tensor, event_shape: tuple[int, ...], estimator: str, draws: int, variational: bool = False
) -> LikelihoodReport:
    """Summarise log p(x) of each row."""
    values, images = _values(log_prob, event_shape), len(event_shape) == 3
    return LikelihoodReport(
        values.mean().item(), _error(values), _unit(event_shape), len(values), estimator, draws, images, variational
    )


def _unit(event_shape: tuple[int, ...]) -> str:
    return "bits/dim" if len(event_shape) == 3 else "nats"


def _values(log_prob: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """log p of every row in the unit of reports."""
    return -log_prob / (math.prod(event_shape) * math.log(2)) if len(event_shape) == 3 else log_prob


def _error(values: Tensor) -> float:
    """Standard error of the mean; NaN of a single row."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


@dataclass(frozen=True)
class EstimatedScore:
    """The score of a flow whose norms are estimates, as trained and as the paper scores, beside its certified one.

    Attributes:
        value, standard_error: as of `LikelihoodReport`, with norms by estimate.
        difference, difference_error: the certified score less this one, over the same rows with the same noise, in
            `unit`; and the standard error of that.
        unit: ``bits/dim`` or ``nats``.
    """

    value: float
    standard_error: float
    difference: float
    difference_error: float
    unit: str

    @property
    def differs(self) -> bool:
        """Whether the two scores differ in the third decimal, and by more than twice their difference's error."""
        return abs(self.difference) > max(2 * self.difference_error, 5e-4)

    def __str__(self) -> str:
        return (
            f"{self.unit} {self.value:.3f} ± {self.standard_error:.3f} with norms by estimate, as trained; rescaling "
            f"to certified norms changes the score by {self.difference:+.3f} ± {self.difference_error:.3f}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite is null."""
        return _finite(asdict(self))


def compare_scores(flow: Flow, certified: Scores, estimated: Scores) -> EstimatedScore:
    """The scores of one flow under certified and under estimated norms, on the same rows with the same noise."""
    ours, theirs = (_values(scores.log_prob, flow.event_shape) for scores in (estimated, certified))
    difference = theirs - ours
    return EstimatedScore(
        ours.mean().item(), _error(ours), difference.mean().item(), _error(difference), _unit(flow.event_shape)
    )


@dataclass(frozen=True)
class GaussianFit:
    """A Gaussian with full covariance fitted to preprocessed data; `log_prob` takes data before preprocessing."""

    mean: Tensor
    cholesky: Tensor
    preprocessing: Bijection

    def log_prob(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """log p(x) in nats, ``(batch,)``."""
        z, logdet = self.preprocessing.forward_and_logdet(x.double(), generator=generator)
        normal = torch.distributions.MultivariateNormal(self.mean, scale_tril=self.cholesky, validate_args=False)
        return normal.log_prob(z.flatten(1).double()) + logdet


@torch.no_grad()
def gaussian_baseline(
    train: Tensor, test: Tensor, preprocessing: Bijection, *, generator: Generator | None = None
) -> LikelihoodReport:
    """Score on the test rows of a full-covariance Gaussian fitted to the preprocessed training rows.

    The data pass through the same preprocessing as a flow's (for images: dequantised logits), in float64. A ridge of
    1e-6 of the mean variance keeps the covariance regular where pixels are constant.
    """
    z = preprocessing.forward(train.double(), generator=generator).flatten(1)
    covariance = torch.cov(z.T)
    ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=z.dtype)
    fit = GaussianFit(z.mean(dim=0), torch.linalg.cholesky(covariance + ridge), preprocessing)
    log_prob = torch.cat([fit.log_prob(batch, generator) for batch in test.split(5000)])
    return report(log_prob, tuple(test.shape[1:]), "full-covariance Gaussian", 1)
