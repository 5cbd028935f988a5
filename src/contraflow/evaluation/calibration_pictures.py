"""Pictures of calibration: reliability of a classifier, histograms of values that should be uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from contraflow.evaluation.calibration import Reliability
from contraflow.evaluation.figures import colour, grid_shape, panels, png_figure
from contraflow.evaluation.pictures import left_out, shortened

_BINS = 20
#: Largest number of columns in one picture.
MOST_COLUMNS = 12


def calibration_picture(
    path: Path,
    classes: Reliability | None,
    uniform: Tensor,
    names: Sequence[str] | None = None,
    samples: int | None = None,
) -> None:
    """The reliability diagram of a classifier, if there is one, and a histogram of each column of values in [0, 1].

    Args:
        path: PNG file.
        classes: from `reliability`.
        uniform: ``(n, D)``, for instance from `probability_integrals`; the first twelve columns are shown.
        names: of the columns.
        samples: number of samples that the values are ranks among, as for `draw_uniform`.
    """
    columns = min(uniform.shape[1], MOST_COLUMNS)
    count = columns + (classes is not None)
    high, wide = grid_shape(count)
    with png_figure(path, 3.2 * wide, 2.8 * high, dpi=130) as figure:
        grid = panels(figure, count)
        if classes is not None:
            draw_reliability(grid.pop(0), classes)
        for index, axes in enumerate(grid):
            draw_uniform(axes, uniform[:, index], samples)
            title = shortened(names[index]) if names else f"{index}"
            axes.set(title=title, xlabel="probability integral", ylabel="rows")
        if columns < uniform.shape[1]:
            figure.suptitle(left_out(columns, uniform.shape[1]))


def draw_reliability(axes: Any, bins: Reliability) -> None:
    """Accuracy against confidence, a dot for each bin, its area the share of rows; calibrated dots are on the line."""
    used = bins.count > 0
    axes.plot([0, 1], [0, 1], color=colour("quiet"), linewidth=0.8)
    sizes = 10 + 150 * bins.count[used] / bins.count.sum()
    axes.scatter(bins.confidence[used], bins.accuracy[used], s=sizes, color=colour("data"), alpha=0.8)
    title = f"calibration error {bins.error:.3f} ± {bins.standard_error:.3f}"
    axes.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def draw_uniform(axes: Any, values: Tensor, samples: int | None = None) -> None:
    """A histogram of twenty bins, and the band in which a bin of uniform values lies.

    Args:
        axes: of matplotlib.
        values: ``(n,)`` in [0, 1].
        samples: number of samples that the values are ranks among, as for `uniform_range`.
    """
    axes.hist(values.numpy(), bins=_BINS, range=(0, 1), color=colour("data"), alpha=0.7)
    axes.axhspan(*uniform_range(len(values), samples), color=colour("quiet"), alpha=0.3)


def uniform_range(n: int, samples: int | None = None) -> tuple[float, float]:
    r"""The range that holds the count of one of twenty bins of n uniform values with a probability of about 95 %.

    The variance of the count is n·p(1 - p) with p = 1/20. Of ranks among m samples the bins end at quantiles of the
    samples: the mass of a bin then has a variance of p(1 - p)/m itself, and the count one of n·p(1 - p)(1 + n/m).

    Args:
        n: number of values.
        samples: m; ``None`` for values that are not ranks.

    >>> [round(end, 1) for end in uniform_range(2000)], [round(end, 1) for end in uniform_range(2000, 2000)]
    ([80.9, 119.1], [73.0, 127.0])
    """
    variance = n / _BINS * (1 - 1 / _BINS) * (1 + (n / samples if samples else 0))
    return n / _BINS - 1.96 * math.sqrt(variance), n / _BINS + 1.96 * math.sqrt(variance)
