"""Pictures of calibration: reliability of classes, histograms of what should be uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from contraflow.evaluation.calibration import Reliability
from contraflow.evaluation.pictures import left_out, png_figure, shortened

_BINS = 20
#: Columns that are shown, more would be a wall.
MOST_COLUMNS = 12


def calibration_picture(
    path: Path,
    classes: Reliability | None,
    uniform: Tensor,
    names: Sequence[str] | None = None,
    samples: int | None = None,
) -> None:
    """Reliability of a classifier, where there is one, and a histogram of every column of values in [0, 1].

    Args:
        path: PNG to write.
        classes: of `reliability`.
        uniform: ``(n, D)``, for instance of `probability_integrals`; the first twelve columns are shown.
        names: of the columns.
        samples: how many the values are ranks among, as for `draw_uniform`.
    """
    columns = min(uniform.shape[1], MOST_COLUMNS)
    panels = columns + (classes is not None)
    wide = min(panels, 4)
    tall = math.ceil(panels / wide)
    with png_figure(path, 3.2 * wide, 2.8 * tall, dpi=130) as figure:
        axes = list(figure.subplots(tall, wide, squeeze=False).flat)
        for one in axes[panels:]:
            one.set_axis_off()
        colours = ("tab:blue", "grey")
        if classes is not None:
            draw_reliability(axes.pop(0), classes, colours)
        for index in range(columns):
            draw_uniform(axes[index], uniform[:, index], colours, samples)
            title = shortened(names[index]) if names else f"{index}"
            axes[index].set(title=title, xlabel="probability integral", ylabel="rows")
        if columns < uniform.shape[1]:
            figure.suptitle(left_out(columns, uniform.shape[1]))


def draw_reliability(axes: Any, found: Reliability, colours: tuple[str, str]) -> None:
    """Accuracy over confidence, a dot for every bin in the first colour, its area the share of rows; the second is the
    diagonal's, where the dots of a calibrated classifier lie."""
    used = found.count > 0
    axes.plot([0, 1], [0, 1], color=colours[1], linewidth=0.8)
    sizes = 10 + 150 * found.count[used] / found.count.sum()
    axes.scatter(found.confidence[used], found.accuracy[used], s=sizes, color=colours[0], alpha=0.8)
    title = f"calibration error {found.error:.3f} ± {found.standard_error:.3f}"
    axes.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def draw_uniform(axes: Any, values: Tensor, colours: tuple[str, str], samples: int | None = None) -> None:
    """Twenty bins in the first colour; in the second the range of a bin of uniform values.

    Args:
        axes: to draw on.
        values: ``(n,)`` in [0, 1].
        colours: of the bars and of the range.
        samples: how many the values are ranks among, as for `uniform_range`.
    """
    axes.hist(values.numpy(), bins=_BINS, range=(0, 1), color=colours[0], alpha=0.7)
    axes.axhspan(*uniform_range(len(values), samples), color=colours[1], alpha=0.3)


def uniform_range(n: int, samples: int | None = None) -> tuple[float, float]:
    r"""Where the count of one of twenty bins of n uniform values lies with a probability of about 95 %.

    Its variance is n·p(1 - p), p = 1/20. Ranks among m samples have bins that end at quantiles of those: the mass of a
    bin then varies by p(1 - p)/m itself, and the count by n·p(1 - p)(1 + n/m).

    Args:
        n: values.
        samples: m; ``None`` for values that are no ranks.

    >>> [round(end, 1) for end in uniform_range(2000)], [round(end, 1) for end in uniform_range(2000, 2000)]
    ([80.9, 119.1], [73.0, 127.0])
    """
    variance = n / _BINS * (1 - 1 / _BINS) * (1 + (n / samples if samples else 0))
    return n / _BINS - 1.96 * math.sqrt(variance), n / _BINS + 1.96 * math.sqrt(variance)
