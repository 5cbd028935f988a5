"""Out-of-distribution detection: each score on each other data set, as a table and as histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation.detection import Detection, detect
from contraflow.evaluation.figures import colour, png_figure
from contraflow.evaluation.out_of_distribution import Evidence, TypicalityTest, out_of_distribution_scores
from contraflow.evaluation.pictures import span

COLUMNS = ("against", "score", "AUROC [95 %]", "average precision", "FPR95")


@dataclass(frozen=True)
class DetectionReport:
    """How well each score separates other data sets from the flow's own data set.

    Attributes:
        inside: name of the flow's own data set.
        scores: data set → score → its values, the flow's own data set first.
        detections: other data set → score → how well the score separates it.
        rejected: data set → typicality test → share of batches that the test rejects as atypical; for the flow's own
            data set this is the share of false alarms.
        log_prob: data set → mean log p(x) in nats and its standard error.
    """

    inside: str
    scores: dict[str, dict[str, Tensor]]
    detections: dict[str, dict[str, Detection]]
    rejected: dict[str, dict[str, float]]
    log_prob: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with null in place of a mean log p(x) that is not finite."""
        detections = {
            name: {score: asdict(detection) for score, detection in row.items()}
            for name, row in self.detections.items()
        }
        sets = {
            name: {"log_prob": _finite(mean), "standard_error": _finite(error)}
            for name, (mean, error) in self.log_prob.items()
        }
        return {"inside": self.inside, "sets": sets, "detections": detections, "typicality_rejects": self.rejected}

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `COLUMNS` for each other data set and score."""
        return [
            (
                name,
                score,
                f"{detection.auroc:.3f} [{detection.low:.3f}, {detection.high:.3f}]",
                f"{detection.average_precision:.3f}",
                f"{detection.false_positive_rate:.3f}",
            )
            for name, row in self.detections.items()
            for score, detection in row.items()
        ]

    def __str__(self) -> str:
        lines = [COLUMNS, ("---",) * len(COLUMNS), *self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report_detection(
    inside: str,
    evidence: Mapping[str, Evidence],
    held_out: Tensor,
    *,
    batches: Sequence[int] = (1, 10),
    level: float = 0.05,
    generator: torch.Generator | None = None,
) -> DetectionReport:
    """Score all data sets and compare each with the flow's own.

    Args:
        inside: name of the flow's own data set in `evidence`.
        evidence: data set → evidence of its rows.
        held_out: log p(x) in nats of other rows of the flow's own data, on which the typicality tests are fitted.
        batches: numbers of rows that a typicality test considers together.
        level: of the typicality tests.
        generator: of their bootstrap.
    """
    tests = [TypicalityTest.fit(held_out, batch, level, generator=generator) for batch in batches]
    scores = {name: out_of_distribution_scores(of_set, tests) for name, of_set in evidence.items()}
    own = scores[inside]
    return DetectionReport(
        inside,
        scores,
        {
            name: {score: detect(own[score], values) for score, values in row.items()}
            for name, row in scores.items()
            if name != inside
        },
        {
            name: {str(test): test.rejects(of_set.log_prob).double().mean().item() for test in tests}
            for name, of_set in evidence.items()
        },
        {name: _mean(of_set.log_prob) for name, of_set in evidence.items()},
    )


def _mean(log_prob: Tensor) -> tuple[float, float]:
    return log_prob.mean().item(), log_prob.std().item() / math.sqrt(len(log_prob))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scores_histograms(report: DetectionReport, path: Path) -> None:
    """A panel for each score, with its histogram on each data set. Larger scores are more out of distribution.

    The range shown is that of the flow's own data and eight times its width on either side; values beyond it are drawn
    at the edge.

    Args:
        report: from `report_detection`.
        path: PNG file.
    """
    names = list(report.scores[report.inside])
    with png_figure(path, 7, 1.8 * len(names)) as figure:
        for axes, score in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
            _draw_score(axes, report, score)
        figure.axes[0].legend()


def _draw_score(axes: Any, report: DetectionReport, score: str) -> None:
    values = {name: row[score] for name, row in report.scores.items()}
    low, high = _range(values[report.inside], torch.cat(list(values.values())))
    for name, of_set in values.items():
        style: dict[str, Any] = {"histtype": "step", "linewidth": 1.5}
        if name == report.inside:
            style = {"color": colour("ink"), "alpha": 0.35}
        weights = np.full(len(of_set), 1 / len(of_set))
        axes.hist(of_set.clamp(low, high).numpy(), bins=80, range=(low, high), weights=weights, label=name, **style)
    axes.set(title=f"{score}: larger is more out of distribution", yticks=[])


def _range(inside: Tensor, every: Tensor) -> tuple[float, float]:
    """The range to show."""
    finite = inside[inside.isfinite()]
    if not len(finite):
        return -1.0, 1.0
    first, last = torch.quantile(finite, torch.tensor([0.01, 0.99], dtype=inside.dtype)).tolist()
    margin = 8 * (last - first)
    return span(max(first - margin, every.min().item()), min(last + margin, every.max().item()))
