"""Estimates of log p(x), averaged over independent passes through a flow, with standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.errors import ConfigurationError
from contraflow.inputs import in_batch
from contraflow.numerics import fixed_means, two_stage_means

#: Indices of samples, repeated for several estimates → log p(x) of each, and p(y|x) where the flow classifies.
Draw = Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class LogProbEstimate:
    """log p(x) of each sample, with its standard error.

    Attributes:
        value: mean of independent estimates in nats, ``(batch,)``, float64; unbiased where the estimator is.
        standard_error: of that mean, in nats; NaN where there is only one estimate.
        probes: number of independent estimates in the mean, each with its own probe, truncation and dequantisation
            noise.
        reached: whether the standard error is at most the target; all true without a target.
        degrees_of_freedom: of the variance behind the standard error, for Student's t.
        class_probabilities: p(y|x) of a flow that classifies, averaged over all estimates, those of the pilot included,
            ``(batch, classes)``, float64; ``None`` for other flows.
    """

    value: Tensor
    standard_error: Tensor
    probes: Tensor
    reached: Tensor
    degrees_of_freedom: Tensor
    class_probabilities: Tensor | None = None

    def interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of Student's confidence interval for log p(x), each ``(batch,)``.

        Raises:
            ConfigurationError: scipy, which provides Student's t, is not installed.
        """
        try:
            from scipy.stats import t
        except ImportError:
            raise ConfigurationError("intervals need the extra: pip install 'contraflow[intervals]'.") from None

        quantile = torch.as_tensor(t.ppf(0.5 + confidence / 2, self.degrees_of_freedom.numpy()))
        return self.value - quantile * self.standard_error, self.value + quantile * self.standard_error

    def in_batch(self, batch: torch.Size) -> LogProbEstimate:
        """The same estimate with its samples in a batch of another shape."""
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return LogProbEstimate(**{name: in_batch(tensor, batch) for name, tensor in tensors.items()})


def average(
    draw: Draw, count: int, target_error: float | None, probes: int | None, budget: int, batch_size: int | None
) -> LogProbEstimate:
    """Average independent estimates of `count` samples; arguments and errors are those of `Flow.log_prob_estimate`."""
    _check_precision(target_error, probes, budget, batch_size)
    batch_size = batch_size or max(count, 256)
    probabilities: list[tuple[Tensor, Tensor]] = []

    def draw_and_record(rows: Tensor) -> Tensor:
        log_prob, classes = draw(rows)
        if classes is not None:
            probabilities.append((rows, classes.double().cpu()))
        return log_prob

    if target_error is None:
        means = fixed_means(draw_and_record, count, probes or 16, batch_size)
        reached = torch.ones(count, dtype=torch.bool)
    else:
        means = two_stage_means(draw_and_record, count, target_error, budget, batch_size)
        reached = means.standard_error <= target_error
    return LogProbEstimate(
        means.value,
        means.standard_error,
        means.draws,
        reached,
        means.degrees_of_freedom,
        _means_by_row(probabilities, count) if probabilities else None,
    )


def _means_by_row(draws: list[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """Mean of the vectors drawn for each row, ``(count, classes)``; a row may be drawn several times."""
    rows, vectors = (torch.cat(tensors) for tensors in zip(*draws, strict=True))
    total = vectors.new_zeros(count, vectors.shape[1]).index_add(0, rows, vectors)
    return total / rows.bincount(minlength=count)[:, None]


def _check_precision(target_error: float | None, probes: int | None, budget: int, batch_size: int | None) -> None:
    if target_error is not None and probes is not None:
        raise ConfigurationError(
            f"target_error={target_error} and probes={probes} exclude each other: a target determines the number of "
            "probes."
        )
    if target_error is not None and not target_error > 0:
        raise ConfigurationError(f"target_error={target_error}: it must be positive, in nats.")
    if probes is not None and probes < 1:
        raise ConfigurationError(f"probes={probes}: it must be at least 1.")
    if target_error is not None and budget < 20:
        raise ConfigurationError(f"budget={budget}: it must be at least 20, 16 for the pilot and 4 for the value.")
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size}: it must be at least 1.")
