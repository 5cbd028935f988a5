"""Every out-of-distribution score against every other data set: a table, and histograms."""

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
from contraflow.evaluation.out_of_distribution import Evidence, TypicalityTest, out_of_distribution_scores
from contraflow.evaluation.pictures import png_figure, span

COLUMNS = ("against", "score", "AUROC [95 %]", "average precision", "FPR95")


@dataclass(frozen=True)
class DetectionReport:
    """How well each score tells each other data set from the flow's own.

    Attributes:
        inside: name of the flow's own data.
        scores: set → score → its values, the flow's own set first.
        detections: other set → score → how well it separates.
        rejected: set → typicality test → share of its batches that the test finds atypical; of the own set, the share
            of false alarms.
        log_prob: set → mean log p(x) in nats and its standard error.
    """

    inside: str
    scores: dict[str, dict[str, Tensor]]
    detections: dict[str, dict[str, Detection]]
    rejected: dict[str, dict[str, float]]
    log_prob: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no NaN and no infinity: a mean log p(x) of -inf is null."""
        found = {name: {score: asdict(one) for score, one in row.items()} for name, row in self.detections.items()}
        sets = {
            name: {"log_prob": _finite(mean), "standard_error": _finite(error)}
            for name, (mean, error) in self.log_prob.items()
        }
        return {"inside": self.inside, "sets": sets, "detections": found, "typicality_rejects": self.rejected}

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `COLUMNS` for every set and score."""
        return [
            (
                name,
                score,
                f"{one.auroc:.3f} [{one.low:.3f}, {one.high:.3f}]",
                f"{one.average_precision:.3f}",
                f"{one.false_positive_rate:.3f}",
            )
            for name, row in self.detections.items()
            for score, one in row.items()
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
    """Score every set and compare each with the flow's own.

    Args:
        inside: name of the flow's own data in `evidence`.
        evidence: set → evidence of its rows.
        held_out: log p(x) of further rows of the flow's own data, in nats, to which typicality refers.
        batches: numbers of rows that a typicality test looks at together.
        level: of the typicality tests.
        generator: of their bootstrap.
    """
    tests = [TypicalityTest.fit(held_out, batch, level, generator=generator) for batch in batches]
    scores = {name: out_of_distribution_scores(one, tests) for name, one in evidence.items()}
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
            name: {str(test): test.rejects(one.log_prob).double().mean().item() for test in tests}
            for name, one in evidence.items()
        },
        {name: _mean(one.log_prob) for name, one in evidence.items()},
    )


def _mean(log_prob: Tensor) -> tuple[float, float]:
    return log_prob.mean().item(), log_prob.std().item() / math.sqrt(len(log_prob))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scores_histograms(report: DetectionReport, path: Path) -> None:
    """A panel for each score: its histogram over every set. Further right means further outside.

    The range shown is that of the flow's own data and eight times its width on either side; what lies beyond is drawn
    at the edge.

    Args:
        report: of `report_detection`.
        path: PNG file.
    """
    names = list(report.scores[report.inside])
    with png_figure(path, 7, 1.8 * len(names)) as figure:
        for axes, score in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
            _draw_score(axes, report, score)
        figure.axes[0].legend(fontsize="small")


def _draw_score(axes: Any, report: DetectionReport, score: str) -> None:
    values = {name: row[score] for name, row in report.scores.items()}
    low, high = _range(values[report.inside], torch.cat(list(values.values())))
    for name, one in values.items():
        style: dict[str, Any] = {"histtype": "step", "linewidth": 1.5}
        if name == report.inside:
            style = {"color": "black", "alpha": 0.35}
        weights = np.full(len(one), 1 / len(one))
        axes.hist(one.clamp(low, high).numpy(), bins=80, range=(low, high), weights=weights, label=name, **style)
    axes.set_title(f"{score}: further right, further outside", fontsize="small")
    axes.set_yticks([])


def _range(inside: Tensor, every: Tensor) -> tuple[float, float]:
    """The range to show."""
    finite = inside[inside.isfinite()]
    if not len(finite):
        return -1.0, 1.0
    first, last = torch.quantile(finite, torch.tensor([0.01, 0.99], dtype=inside.dtype)).tolist()
    margin = 8 * (last - first)
    return span(max(first - margin, every.min().item()), min(last + margin, every.max().item()))
