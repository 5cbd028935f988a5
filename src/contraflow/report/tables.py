"""Tables: every column, and every pair of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation.pictures import MOST_COLUMNS, draw_column, left_out, shortened, span
from contraflow.report.drawing import colour, drawing, panels
from contraflow.report.page import figure
from contraflow.report.run_data import Subject

#: Columns of which every pair is shown; points of a scatter plot; test rows that are enough of a picture.
_PAIRS = 6
_POINTS = 1500
_ENOUGH = 500


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


def rows_to_show(subject: Subject) -> Tensor:
    """Test rows, or all rows where those are few."""
    data = subject.data
    return data.test if len(data.test) >= _ENOUGH else torch.cat([data.train, data.validation, data.test])


def marginals(subject: Subject) -> str:
    """Histograms of every column, data and samples."""
    count = min(subject.trained.flow.dimensions, MOST_COLUMNS)
    data = rows_to_show(subject)
    bars = min(80, 10 + int(2 * math.sqrt(len(data))))
    with panels("marginals", "histograms of every column", count, 1.45) as (picture, grid):
        for index, (axes, name) in enumerate(zip(grid, names(subject), strict=False)):
            draw_column(axes, data[:, index], subject.samples[:, index], (colour("data"), colour("model")), bars)
            axes.set_title(shortened(name))
        grid[0].legend()
    return figure(
        picture.svg,
        "Columns.",
        "Data (filled) and samples (line). Look for sharp edges, spikes and heavy tails that the samples round "
        f"off. {left_out(count, subject.trained.flow.dimensions)}",
    )


def pairs(subject: Subject) -> str:
    """Every pair of the first columns: data below the diagonal, samples above it."""
    count = min(subject.trained.flow.dimensions, _PAIRS)
    data, samples = rows_to_show(subject)[:_POINTS, :count], subject.samples[:_POINTS, :count]
    labels = names(subject)
    quantiles = data.double().quantile(torch.tensor([0.002, 0.998], dtype=torch.float64), dim=0)
    ends = [span(low, high, 0.05) for low, high in quantiles.T.tolist()]
    with drawing("pairs", "scatter plots of every pair of columns", height=7.4) as picture:
        grid = picture.figure.subplots(count, count, squeeze=False)
        for row, column in np.ndindex(count, count):
            axes = grid[row, column]
            axes.set(xticks=[], yticks=[], xlim=ends[column])
            if row == column:
                axes.text(
                    0.5, 0.5, shortened(labels[row]), transform=axes.transAxes, ha="center", va="center", fontsize=8.5
                )
                axes.set_frame_on(False)
                continue
            cloud, paint = (data, "data") if row > column else (samples, "model")
            axes.set(ylim=ends[row])
            axes.scatter(
                *(cloud[:, one].tolist() for one in (column, row)),
                s=min(6.0, 2000 / len(cloud)),
                color=colour(paint),
                alpha=0.5,
                linewidths=0,
                rasterized=True,
            )
    return figure(
        picture.svg,
        "Pairs of columns.",
        "Data below the diagonal (blue), samples above it (orange), at the same scales: the picture ought to be "
        "symmetric when its diagonal is a mirror. "
        f"{left_out(count, subject.trained.flow.dimensions)}",
    )
