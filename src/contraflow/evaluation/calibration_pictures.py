"""Pictures of calibration: reliability of classes, histograms of what should be uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from contraflow.evaluation.calibration import Reliability

_BINS, _MOST = 20, 12


def calibration_picture(
    path: Path, classes: Reliability | None, uniform: Tensor, names: Sequence[str] | None = None
) -> None:
    """Reliability of a classifier, where there is one, and a histogram of every column of values in [0, 1].

    Args:
        path: PNG to write.
        classes: of `reliability`.
        uniform: ``(n, D)``, for instance of `probability_integrals`; the first twelve columns are shown.
        names: of the columns.
    """
    from matplotlib.figure import Figure

    columns = min(uniform.shape[1], _MOST)
    panels = columns + (classes is not None)
    wide = min(panels, 4)
    tall = math.ceil(panels / wide)
    figure = Figure(figsize=(3.2 * wide, 2.8 * tall), layout="constrained")
    axes = list(figure.subplots(tall, wide, squeeze=False).flat)
    for one in axes[panels:]:
        one.set_axis_off()
    if classes is not None:
        _draw_reliability(axes.pop(0), classes)
    for index in range(columns):
        _draw_histogram(axes[index], uniform[:, index], names[index] if names else f"{index}")
    figure.savefig(path, format="png", dpi=130)


def _draw_reliability(axes: Any, found: Reliability) -> None:
    used = found.count > 0
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    sizes = 10 + 150 * found.count[used] / found.count.sum()
    axes.scatter(found.confidence[used], found.accuracy[used], s=sizes, color="tab:blue", alpha=0.8)
    title = f"calibration error {found.error:.3f} ± {found.standard_error:.3f}"
    axes.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def _draw_histogram(axes: Any, values: Tensor, name: str) -> None:
    """Twenty bins, and the range that a bin of uniform values keeps with a probability of about 95 %."""
    n = len(values)
    expected, deviation = n / _BINS, math.sqrt(n / _BINS * (1 - 1 / _BINS))
    axes.hist(values.numpy(), bins=_BINS, range=(0, 1), color="tab:blue", alpha=0.7)
    axes.axhspan(expected - 1.96 * deviation, expected + 1.96 * deviation, color="grey", alpha=0.3)
    axes.set(title=name, xlabel="probability integral", ylabel="rows")
