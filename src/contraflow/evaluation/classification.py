"""Accuracy, cross-entropy and calibration of a hybrid flow's classifier, with error bars."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.architectures.hybrid_flow import UNKNOWN, HybridFlow
from contraflow.errors import ConfigurationError, DataError
from contraflow.evaluation.calibration import reliability
from contraflow.evaluation.likelihood import Progress, Scores
from contraflow.flow import Flow


@dataclass(frozen=True)
class ClassificationReport:
    """Held-out scores of p(y|x).

    Attributes:
        accuracy: share of rows whose most probable class is the true one.
        accuracy_low, accuracy_high: Wilson's 95 % confidence interval of the accuracy.
        cross_entropy, cross_entropy_error: mean of -log p(y|x) in nats, and its standard error over rows.
        calibration_error, calibration_error_error: expected calibration error in 15 bins, and its bootstrap error.
        rows: number of labelled rows scored.
        draws: number of draws of dequantisation noise that p(y|x) is averaged over.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    cross_entropy: float
    cross_entropy_error: float
    calibration_error: float
    calibration_error_error: float
    rows: int
    draws: int

    def __str__(self) -> str:
        low, high = (100 * end for end in (self.accuracy_low, self.accuracy_high))
        draws = f", {self.draws} draws" if self.draws != 1 else ""
        return (
            f"accuracy {100 * self.accuracy:.2f} % (95 %: {low:.2f} to {high:.2f}), cross entropy "
            f"{self.cross_entropy:.4f} ± {self.cross_entropy_error:.4f} nats, calibration error "
            f"{self.calibration_error:.4f} ± {self.calibration_error_error:.4f} ({self.rows} rows{draws})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with null in place of NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@torch.no_grad()
def class_probabilities(
    flow: HybridFlow,
    x: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 200,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """p(y|x) of each row and class, ``(n, classes)``, float64, averaged over draws of dequantisation noise.

    Args:
        flow: a flow with a classifier.
        x: ``(n, *event_shape)``.
        draws: number of draws of the noise; without dequantisation one draw is exact.
        batch_size: number of rows in one pass.
        generator: source of the noise.
        progress: called with the number of rows done and the number of all rows.

    Raises:
        ConfigurationError: draws or batch size below 1.
    """
    if draws < 1 or batch_size < 1:
        raise ConfigurationError(f"draws={draws}, batch_size={batch_size}: both must be at least 1.")
    parts = [torch.zeros(0, flow.classes, dtype=torch.float64)]
    for done in range(0, len(x), batch_size):
        batch = x[done : done + batch_size].to(flow.device)
        samples = [flow.class_logits(batch, generator=generator).double().softmax(dim=1) for _ in range(draws)]
        parts.append(torch.stack(samples).mean(dim=0).cpu())
        if progress is not None:
            progress(min(done + batch_size, len(x)), len(x))
    return torch.cat(parts)


def evaluate_classification(
    flow: HybridFlow,
    x: Tensor,
    labels: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 200,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> ClassificationReport:
    """Score `class_probabilities` on the rows with known labels.

    Args:
        labels: int64 ``(n,)``; rows with label -1 are left out.

    Raises:
        DataError: no row has a label.
        ShapeError, DomainError: a label is not a class of the flow.
    """
    known = flow.check_labels(labels, len(x)) != UNKNOWN
    probabilities = class_probabilities(
        flow, x[known], draws=draws, batch_size=batch_size, generator=generator, progress=progress
    )
    return classification_report(probabilities, labels[known], draws)


def report_classes(flow: Flow, scores: Scores, labels: Tensor | None) -> ClassificationReport | None:
    """Score the classifier on the rows of `scores`; ``None`` without a classifier or without labels.

    Args:
        scores: from `score`, which computes p(y|x) in the same passes.
        labels: int64 ``(n,)`` of the same rows; rows with label -1 are left out.

    Raises:
        DataError: no row has a label.
        ShapeError, DomainError: a label is not a class of the flow.
    """
    if not isinstance(flow, HybridFlow) or scores.class_probabilities is None or labels is None:
        return None
    known = flow.check_labels(labels, len(scores.class_probabilities)) != UNKNOWN
    return classification_report(scores.class_probabilities[known], labels[known], scores.draws)


def classification_report(probabilities: Tensor, labels: Tensor, draws: int = 1) -> ClassificationReport:
    """Score probabilities ``(n, classes)`` on labels ``(n,)``, all of them known.

    Raises:
        DataError: there are no rows.
    """
    if not len(labels):
        raise DataError("no row has a label, so the classifier cannot be scored.")
    correct = probabilities.argmax(dim=1) == labels
    cross_entropy = -probabilities.gather(1, labels[:, None])[:, 0].log()
    calibration = reliability(probabilities, labels)
    return ClassificationReport(
        correct.double().mean().item(),
        *wilson_interval(int(correct.sum()), len(labels)),
        cross_entropy.mean().item(),
        cross_entropy.std().item() / math.sqrt(len(labels)) if len(labels) > 1 else math.nan,
        calibration.error,
        calibration.standard_error,
        len(labels),
        draws,
    )


@dataclass(frozen=True)
class Confusion:
    """Rows of one class that the classifier assigns to another.

    Attributes:
        label, prediction: the true class, and the most probable class by p(y|x).
        count: number of such rows.
        of: number of all rows of the true class.
    """

    label: int
    prediction: int
    count: int
    of: int


def confusions(probabilities: Tensor, labels: Tensor) -> list[Confusion]:
    """The pairs of classes that the classifier confuses, the most frequent first.

    Args:
        probabilities: ``(n, classes)``.
        labels: int64 ``(n,)``, all known.

    >>> confusions(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 0, 0]))
    [Confusion(label=0, prediction=1, count=1, of=3)]
    """
    classes, predictions = probabilities.shape[1], probabilities.argmax(dim=1)
    counts = (labels * classes + predictions).bincount(minlength=classes**2).reshape(classes, classes)
    rows = counts.sum(dim=1)
    pairs = [
        Confusion(int(label), int(prediction), int(counts[label, prediction]), int(rows[label]))
        for label, prediction in counts.nonzero()
        if label != prediction
    ]
    return sorted(pairs, key=lambda pair: -pair.count)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a probability, z standard deviations wide on each side.

    >>> [round(end, 4) for end in wilson_interval(180, 180)]
    [0.9791, 1.0]
    """
    share, z2 = successes / trials, z * z
    centre = share + z2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return (centre - half) / (1 + z2 / trials), min(1.0, (centre + half) / (1 + z2 / trials))
