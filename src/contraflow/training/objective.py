"""What training minimises: -log p(x), or -λ log p(x) - log p(y|x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.architectures.hybrid_flow import UNKNOWN, HybridFlow, label_log_prob
from contraflow.errors import ConfigurationError
from contraflow.flow import Flow
from contraflow.training.settings import TrainingSettings


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes:
        x: those for log p(x).
        labels: of the rows for log p(y|x), all known; ``None`` without such a term.
        labelled: those rows; ``None`` where they are x.
    """

    x: Tensor
    labels: Tensor | None = None
    labelled: Tensor | None = None

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with rows augmented."""
        labelled = None if self.labelled is None else change(self.labelled)
        return Batch(change(self.x), self.labels, labelled)


@dataclass(frozen=True)
class Terms:
    """Means over a batch.

    Attributes:
        loss: what is minimised, in nats, with its graph.
        values: log_prob and cross_entropy in nats, accuracy; those that the objective has.
    """

    loss: Tensor
    values: dict[str, float]


class Objective:
    r"""-λ log p(x) - log p(y|x), the second term over the rows whose label is known.

    Where all labels are known, both terms come from one pass. Where some are missing (semi-supervised learning), a
    batch for the second term is drawn from the rows that have one, with replacement, so that λ means the same however
    few they are. With λ = 0 no log-determinant is computed, and rows without a label are not used.

    Args:
        flow: the flow in training.
        weight: λ.
        labels: int64 ``(n,)`` of all training rows, -1 for unknown ones; ``None`` for -log p(x) alone, λ = 1.

    Attributes:
        scale: what the loss is divided by before its gradient is clipped: bits (images) or nats per dimension where
            λ log p(x) prevails, 1 where log p(y|x) does.
    """

    def __init__(self, flow: Flow, weight: float = 1.0, labels: Tensor | None = None) -> None:
        self.flow, self.weight, self.labels = flow, weight, labels
        per_dimension = flow.dimensions * (math.log(2) if len(flow.event_shape) == 3 else 1.0)
        self.scale = per_dimension if labels is None else max(1.0, weight * per_dimension)
        known = torch.zeros(0, dtype=torch.long) if labels is None else (labels != UNKNOWN).nonzero()[:, 0]
        self.drawn_from = None if labels is None or len(known) == len(labels) else known

    def batch(self, x: Tensor, rows: Tensor, data: Tensor, generator: Generator) -> Batch:
        """The batch of x, rows `rows` of the data."""
        if self.labels is None:
            return Batch(x)
        if self.drawn_from is None:
            return Batch(x, self.labels[rows].to(x.device))
        known = self.drawn_from
        chosen = known[torch.randint(len(known), (len(x),), generator=generator, device=generator.device).cpu()]
        return Batch(x, self.labels[chosen].to(x.device), data[chosen].to(x.device))

    def terms(self, batch: Batch, generator: Generator) -> Terms:
        """Loss and terms of a batch."""
        flow = self.flow
        if batch.labels is None:
            return self._sum(flow.log_prob(batch.x, generator=generator).mean(), None, None)
        assert isinstance(flow, HybridFlow)
        log_prob = None
        if self.weight and batch.labelled is None:
            log_probs, logits = flow.log_prob_and_logits(batch.x, generator=generator)
            log_prob = log_probs.mean()
        else:
            if self.weight:
                log_prob = flow.log_prob(batch.x, generator=generator).mean()
            labelled = batch.x if batch.labelled is None else batch.labelled
            logits = flow.class_logits(labelled, generator=generator)
        return self._sum(log_prob, logits, batch.labels)

    def _sum(self, log_prob: Tensor | None, logits: Tensor | None, labels: Tensor | None) -> Terms:
        parts, values = [], {}
        if log_prob is not None:
            parts.append(-self.weight * log_prob)
            values["log_prob"] = log_prob.item()
        if logits is not None and labels is not None:
            parts.append(-label_log_prob(logits, labels).mean())
            values["cross_entropy"] = parts[-1].item()
            values["accuracy"] = (logits.argmax(dim=1) == labels).double().mean().item()
        return Terms(torch.stack(parts).sum(), values)


def make_objective(flow: Flow, settings: TrainingSettings, labels: Tensor | None) -> Objective:
    """The objective of the settings.

    Raises:
        ConfigurationError: the hybrid one without a classifier, without labels, or with labels that do not fit.
    """
    if settings.objective == "likelihood":
        return Objective(flow)
    if not isinstance(flow, HybridFlow):
        raise ConfigurationError(
            "training.objective=hybrid needs an architecture with a classifier, for instance architecture.name=hybrid."
        )
    if labels is None or bool((labels == UNKNOWN).all()):
        raise ConfigurationError("training.objective=hybrid needs data with labels, and these have none.")
    flow.check_labels(labels, len(labels))
    return Objective(flow, settings.weight_for(flow.dimensions), labels)
