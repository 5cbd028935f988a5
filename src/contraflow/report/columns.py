"""Tables: every column, and every pair of them."""

from __future__ import annotations

import math

import numpy as np

from contraflow.evaluation.pictures import draw_column
from contraflow.report.drawing import colour, drawing
from contraflow.report.page import figure
from contraflow.report.subject import Subject

#: Columns that are shown; more would be a wall.
_MARGINALS, _PAIRS = 24, 6
_SHOWN = 1500


def columns(subject: Subject) -> list[str] | None:
    """The section of a flow on a table of three columns and more, or of one."""
    if len(subject.trained.flow.event_shape) != 1 or subject.trained.flow.event_shape == (2,):
        return None
    parts = [marginals(subject)]
    return [*parts, pairs(subject)] if subject.trained.flow.dimensions > 1 else parts


def names(subject: Subject) -> list[str]:
    """Of the columns."""
    count = subject.trained.flow.dimensions
    return list(subject.trained.columns or (f"column {index}" for index in range(count)))


def marginals(subject: Subject) -> str:
    """Histograms of every column, data and samples."""
    count = min(subject.trained.flow.dimensions, _MARGINALS)
    wide = min(count, 4)
    high = math.ceil(count / wide)
    with drawing("marginals", "histograms of every column", height=0.3 + 1.45 * high) as picture:
        panels = np.ravel(picture.figure.subplots(high, wide, squeeze=False))
        for axes in panels[count:]:
            axes.set_axis_off()
        for index, (axes, name) in enumerate(zip(panels[:count], names(subject), strict=False)):
            draw_column(axes, subject.data.test[:, index], subject.samples[:, index], (colour("data"), colour("model")))
            axes.set_title(name)
        panels[0].legend()
    rest = subject.trained.flow.dimensions - count
    return figure(
        picture.svg,
        "Columns.",
        "Test rows (filled) and samples (line). Look for sharp edges, spikes and heavy tails that the samples round "
        f"off.{f' The other {rest} columns are left out.' if rest else ''}",
    )


def pairs(subject: Subject) -> str:
    """Every pair of the first columns: data below the diagonal, samples above it."""
    count = min(subject.trained.flow.dimensions, _PAIRS)
    data, samples = subject.data.test[:_SHOWN, :count], subject.samples[:_SHOWN, :count]
    labels = names(subject)
    quantiles = data.double().quantile(data.new_tensor([0.002, 0.998]).double(), dim=0)
    margin = 0.05 * (quantiles[1] - quantiles[0]).clamp_min(1e-9)
    ends = list(zip((quantiles[0] - margin).tolist(), (quantiles[1] + margin).tolist(), strict=True))
    with drawing("pairs", "scatter plots of every pair of columns", height=7.4) as picture:
        panels = picture.figure.subplots(count, count, squeeze=False)
        for row, column in np.ndindex(count, count):
            axes = panels[row, column]
            axes.set(xticks=[], yticks=[], xlim=ends[column])
            if row == column:
                axes.text(0.5, 0.5, labels[row], transform=axes.transAxes, ha="center", va="center", fontsize=8.5)
                axes.set_frame_on(False)
                continue
            cloud, paint = (data, "data") if row > column else (samples, "model")
            axes.set(ylim=ends[row])
            axes.scatter(
                *(cloud[:, one].tolist() for one in (column, row)),
                s=1.2,
                color=colour(paint),
                alpha=0.5,
                linewidths=0,
                rasterized=True,
            )
    rest = subject.trained.flow.dimensions - count
    return figure(
        picture.svg,
        "Pairs of columns.",
        "Test rows below the diagonal (blue), samples above it (orange), at the same scales: the picture ought to be "
        "symmetric when its diagonal is a mirror. "
        f"{f'Only the first {count} of {count + rest} columns are shown.' if rest else ''}",
    )
