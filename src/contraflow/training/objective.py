"""Objectives of training: the negative log-likelihood -log p(x), and the hybrid -λ log p(x) - log p(y|x)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from contraflow.architectures.hybrid_flow import UNKNOWN, HybridFlow, label_log_prob
from contraflow.errors import ConfigurationError
from contraflow.evaluation import evaluate_classification, score
from contraflow.flow import Flow
from contraflow.logdet import LogDetEstimator


@dataclass(frozen=True)
class Batch:
    """The rows of one training step.

    Attributes:
        x: the rows for log p(x).
        labels: labels of the rows for log p(y|x), all known; ``None`` for an objective without this term.
        labelled: the rows for log p(y|x); ``None`` where they are x.
    """

    x: Tensor
    labels: Tensor | None = None
    labelled: Tensor | None = None

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with its rows augmented."""
        labelled = None if self.labelled is None else change(self.labelled)
        return Batch(change(self.x), self.labels, labelled)


@dataclass(frozen=True)
class Terms:
    """The loss of a batch and its terms, as means over the rows.

    Attributes:
        loss: the loss in nats, differentiable.
        values: log_prob and cross_entropy in nats, and accuracy, where the objective has them.
    """

    loss: Tensor
    values: dict[str, float]


@dataclass(frozen=True)
class Objective(ABC):
    """What `train` minimises. It has no state: every call is given the flow, the rows and their labels.

    A new objective is a frozen dataclass with these methods. An entry in `contraflow.runs.choices.OBJECTIVES` makes it
    available in recipes and on the command line, with its fields as keys.
    """

    @abstractmethod
    def check(self, flow: Flow, labels: Tensor | None) -> None:
        """Refuse a flow, or training labels ``(n,)``, that the objective cannot use.

        Raises:
            ConfigurationError: the flow lacks a part, or the data lack labels.
            DomainError: a label is not a class of the flow.
        """

    @abstractmethod
    def batch(self, x: Tensor, rows: Tensor, data: Tensor, labels: Tensor | None, generator: Generator) -> Batch:
        """The batch for x, which has rows `rows` ``(batch,)`` of the training data; labels are int64 ``(n,)``."""

    @abstractmethod
    def terms(self, flow: Flow, batch: Batch, generator: Generator) -> Terms:
        """The loss and its terms for a batch."""

    @abstractmethod
    def scale(self, flow: Flow) -> float:
        """The divisor of the loss before its gradient is clipped, so that one bound on the norm suits all data."""

    @abstractmethod
    def validate(
        self,
        flow: Flow,
        x: Tensor,
        labels: Tensor | None,
        *,
        estimator: LogDetEstimator,
        batch_size: int,
        generator: Generator,
    ) -> dict[str, float]:
        """The terms by name on validation rows x, with the estimator for evaluation."""

    @abstractmethod
    def value(self, flow: Flow, terms: Mapping[str, float]) -> float:
        """Minus the loss, in nats a row, computed from its terms."""


@dataclass(frozen=True)
class Likelihood(Objective):
    """The negative log-likelihood -log p(x)."""

    def check(self, flow: Flow, labels: Tensor | None) -> None:
        """Accept any flow."""

    def batch(self, x: Tensor, rows: Tensor, data: Tensor, labels: Tensor | None, generator: Generator) -> Batch:
        return Batch(x)

    def terms(self, flow: Flow, batch: Batch, generator: Generator) -> Terms:
        log_prob = flow.log_prob(batch.x, generator=generator).mean()
        return Terms(-log_prob, {"log_prob": log_prob.item()})

    def scale(self, flow: Flow) -> float:
        """One bit per dimension for images, one nat per dimension for other data."""
        return _per_dimension(flow)

    def validate(
        self,
        flow: Flow,
        x: Tensor,
        labels: Tensor | None,
        *,
        estimator: LogDetEstimator,
        batch_size: int,
        generator: Generator,
    ) -> dict[str, float]:
        scores = score(flow, x, estimator=estimator, batch_size=batch_size, generator=generator)
        return {"log_prob": scores.log_prob.mean().item()}

    def value(self, flow: Flow, terms: Mapping[str, float]) -> float:
        return terms["log_prob"]


#: The default objective.
LIKELIHOOD = Likelihood()


@dataclass(frozen=True)
class Hybrid(Objective):
    r"""The hybrid objective -λ log p(x) - log p(y|x); the second term is a mean over rows with a known label.

    Where all labels are known, one pass computes both terms. Where some are missing (semi-supervised learning), a
    batch for the second term is drawn with replacement from the rows with labels, so that λ has the same meaning
    however few there are. With λ = 0 no log-determinant is computed, and rows without a label are not used.

    Args:
        likelihood_weight: λ, the weight of log p(x): a number from 0 on, or 1/D with the number D of dimensions of the
            data, which counts log p(x) per dimension.

    Raises:
        ConfigurationError: λ is negative or not finite.
    """

    likelihood_weight: float | Literal["1/D"] = "1/D"

    def __post_init__(self) -> None:
        weight = self.likelihood_weight
        if not (weight == "1/D" or 0 <= weight < math.inf):
            raise ConfigurationError(f"objective.likelihood_weight={weight}: it must be 1/D or at least 0.")

    def weight(self, flow: Flow) -> float:
        """λ for this flow."""
        return 1 / flow.dimensions if self.likelihood_weight == "1/D" else self.likelihood_weight

    def check(self, flow: Flow, labels: Tensor | None) -> None:
        if not isinstance(flow, HybridFlow):
            raise ConfigurationError(
                "objective.kind=hybrid needs an architecture with a classifier, for instance architecture.name=hybrid."
            )
        if labels is None or bool((labels == UNKNOWN).all()):
            raise ConfigurationError("objective.kind=hybrid needs data with labels; these have none.")
        flow.check_labels(labels, len(labels))

    def batch(self, x: Tensor, rows: Tensor, data: Tensor, labels: Tensor | None, generator: Generator) -> Batch:
        assert labels is not None
        known = (labels != UNKNOWN).nonzero()[:, 0]
        if len(known) == len(labels):
            return Batch(x, labels[rows].to(x.device))
        chosen = known[torch.randint(len(known), (len(x),), generator=generator, device=generator.device).cpu()]
        return Batch(x, labels[chosen].to(x.device), data[chosen].to(x.device))

    def terms(self, flow: Flow, batch: Batch, generator: Generator) -> Terms:
        assert isinstance(flow, HybridFlow)
        assert batch.labels is not None
        weight, log_prob = self.weight(flow), None
        if weight and batch.labelled is None:
            log_probs, logits = flow.log_prob_and_logits(batch.x, generator=generator)
            log_prob = log_probs.mean()
        else:
            if weight:
                log_prob = flow.log_prob(batch.x, generator=generator).mean()
            labelled = batch.x if batch.labelled is None else batch.labelled
            logits = flow.class_logits(labelled, generator=generator)
        loss = cross_entropy = -label_log_prob(logits, batch.labels).mean()
        values = {"cross_entropy": cross_entropy.item()}
        values["accuracy"] = (logits.argmax(dim=1) == batch.labels).double().mean().item()
        if log_prob is not None:
            loss = cross_entropy - weight * log_prob
            values = {"log_prob": log_prob.item(), **values}
        return Terms(loss, values)

    def scale(self, flow: Flow) -> float:
        """As for `Likelihood` where λ log p(x) dominates, 1 where log p(y|x) does."""
        return max(1.0, self.weight(flow) * _per_dimension(flow))

    def validate(
        self,
        flow: Flow,
        x: Tensor,
        labels: Tensor | None,
        *,
        estimator: LogDetEstimator,
        batch_size: int,
        generator: Generator,
    ) -> dict[str, float]:
        assert isinstance(flow, HybridFlow)
        terms = {}
        if self.weight(flow):
            scores = score(flow, x, estimator=estimator, batch_size=batch_size, generator=generator)
            terms["log_prob"] = scores.log_prob.mean().item()
        if labels is not None:
            classified = evaluate_classification(flow, x, labels, batch_size=batch_size, generator=generator)
            terms |= {"cross_entropy": classified.cross_entropy, "accuracy": classified.accuracy}
        return terms

    def value(self, flow: Flow, terms: Mapping[str, float]) -> float:
        return self.weight(flow) * terms.get("log_prob", 0.0) - terms.get("cross_entropy", 0.0)


def _per_dimension(flow: Flow) -> float:
    """Nats a sample in one bit per dimension (images) or one nat per dimension (other data)."""
    return flow.dimensions * (math.log(2) if len(flow.event_shape) == 3 else 1.0)
