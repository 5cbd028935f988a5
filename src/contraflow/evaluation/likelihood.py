"""Held-out likelihood with its standard error, and the Gaussian that every flow must beat."""

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
    """log p(x) of every row in nats: mean over draws, and that mean's standard error.

    Attributes:
        log_prob, standard_error: ``(n,)``, float64; the error is NaN where there is one draw.
        draws: draws a row; with a target error the most of any row.
        probes: draws of every row, long.
        reached: whether a row's standard error is at most the target; all true without a target.
        class_probabilities: p(y|x) of a hybrid flow, the mean over the same draws, ``(n, classes)``, float64; ``None``
            of others.
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
        value, standard_error: in `unit`; the error covers data and estimator, since every row brings its own probes,
            truncation and dequantisation noise into the spread between rows.
        unit: ``bits/dim`` for images, ``nats`` for others (log p(x), higher is better).
        rows: number of test rows.
        estimator: the log-determinant's.
        draws: estimates averaged for each row, each with its own noise.
        dequantised: whether a draw includes dequantisation noise.
        variational: whether that noise was learned, so that the value is an evidence lower bound under it.
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
        """Plain values for JSON, which has no NaN and no infinity: those are null."""
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
    """log p(x) of every row, averaged over independent draws of all noise: `Flow.log_prob_estimate`, batch by batch.

    A hybrid flow gives p(y|x) of the same passes.

    The standard error of a row needs two draws; with one it is NaN. The same generator state, batch size and dtype
    give the same noise on any number of threads; another batch size hands the noise out to other rows.

    Args:
        flow: any flow; its estimator is replaced by `estimator`.
        x: ``(n, *event_shape)``.
        draws: estimates a row.
        target_error: wanted standard error of every row in nats, in place of `draws`.
        budget: most estimates of a row under a target.
        batch_size: rows at once.
        progress: called with rows done and rows in all.

    Raises:
        ConfigurationError: draws or batch size below 1.
        DomainError: a row is not finite, or its log p(x) is NaN; the message names it.
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
            raise DomainError(f"among rows {done} to {done + len(batch) - 1}, counted from {done}: {error}") from error
        parts.append(estimate)
        if progress is not None:
            progress(min(done + batch_size, len(x)), len(x))
    return _joined(parts, draws)


def _joined(parts: list[LogProbEstimate], draws: int) -> Scores:
    if not parts:
        empty, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        return Scores(empty, empty, draws, none, none.bool())
    value, error = torch.cat([one.value for one in parts]), torch.cat([one.standard_error for one in parts])
    probes, reached = torch.cat([one.probes for one in parts]), torch.cat([one.reached for one in parts])
    classes = [one.class_probabilities for one in parts if one.class_probabilities is not None]
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
    """Mean held-out likelihood with its standard error: bits per dimension of images, nats of others."""
    scores = score(
        flow, x, estimator=estimator, draws=draws, batch_size=batch_size, generator=generator, progress=progress
    )
    return report_scores(flow, scores, estimator)


def report_scores(flow: Flow, scores: Scores, estimator: LogDetEstimator) -> LikelihoodReport:
    """The report on rows that `score` has scored by a flow and an estimator."""
    variational = getattr(flow.preprocessing, "dequantisation", "uniform") == "variational"
    found = report(
        scores.log_prob, flow.event_shape, flow.with_logdet(estimator).estimator_name, scores.draws, variational
    )
    columns = getattr(flow.preprocessing, "ranges", None)  # of a table, those that are dequantised
    return replace(found, dequantised=found.dequantised or bool(columns))


def report(
    log_prob: Tensor, event_shape: tuple[int, ...], estimator: str, draws: int, variational: bool = False
) -> LikelihoodReport:
    """A report from log p of every row."""
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
    """A Gaussian with full covariance on preprocessed data; `log_prob` is of the data as given."""

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
    """Full-covariance Gaussian fitted on the preprocessed training rows, scored on the test rows.

    Both pass through the same preprocessing as a flow's data (for images: dequantised logits), in float64. A ridge of
    1e-6 of the mean variance keeps constant pixels from making the covariance singular.
    """
    z = preprocessing.forward(train.double(), generator=generator).flatten(1)
    covariance = torch.cov(z.T)
    ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=z.dtype)
    fit = GaussianFit(z.mean(dim=0), torch.linalg.cholesky(covariance + ridge), preprocessing)
    log_prob = torch.cat([fit.log_prob(batch, generator) for batch in test.split(5000)])
    return report(log_prob, tuple(test.shape[1:]), "full-covariance Gaussian", 1)
