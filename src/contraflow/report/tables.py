"""Tables: histograms of columns, scatter plots of pairs of columns."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation.figures import colour, svg_figure, svg_panels
from contraflow.evaluation.pictures import MOST_COLUMNS, draw_column, left_out, shortened, span
from contraflow.report.page import figure
from contraflow.report.run_data import RunData

#: Number of columns whose pairs are shown, points of a scatter plot, and test rows that suffice for a histogram.
_PAIRS = 6
_POINTS = 1500
_ENOUGH = 500


def columns(run: RunData) -> list[str] | None:
    """The section; ``None`` unless the data are a table of one column, or of three or more."""
    if len(run.trained.flow.event_shape) != 1 or run.trained.flow.event_shape == (2,):
        return None
    parts = [marginals(run)]
    return [*parts, pairs(run)] if run.trained.flow.dimensions > 1 else parts


def names(run: RunData) -> list[str]:
    """Names of the columns."""
    count = run.trained.flow.dimensions
    return list(run.trained.columns or (f"column {index}" for index in range(count)))


def rows_to_show(run: RunData) -> Tensor:
    """The test rows, or all rows if there are few test rows."""
    data = run.data
    return data.test if len(data.test) >= _ENOUGH else torch.cat([data.train, data.validation, data.test])


def marginals(run: RunData) -> str:
    """Histograms of each column, data and samples."""
    count = min(run.trained.flow.dimensions, MOST_COLUMNS)
    data = rows_to_show(run)
    bars = min(80, 10 + int(2 * math.sqrt(len(data))))
    with svg_panels("marginals", "histograms of every column", count, 1.45) as (picture, grid):
        for index, (axes, name) in enumerate(zip(grid, names(run), strict=False)):
            draw_column(axes, data[:, index], run.samples[:, index], bars)
            axes.set_title(shortened(name))
        grid[0].legend()
    return figure(
        picture.svg,
        "Columns.",
        "Data (filled) and samples (line). Look for sharp edges, spikes and heavy tails that the samples do not "
        f"reproduce. {left_out(count, run.trained.flow.dimensions)}",
    )


def pairs(run: RunData) -> str:
    """Scatter plots of each pair of the first columns: data below the diagonal, samples above it."""
    count = min(run.trained.flow.dimensions, _PAIRS)
    data, samples = rows_to_show(run)[:_POINTS, :count], run.samples[:_POINTS, :count]
    labels = names(run)
    quantiles = data.double().quantile(torch.tensor([0.002, 0.998], dtype=torch.float64), dim=0)
    ends = [span(low, high, 0.05) for low, high in quantiles.T.tolist()]
    with svg_figure("pairs", "scatter plots of every pair of columns", height=7.4) as picture:
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
                *cloud[:, [column, row]].T.tolist(),
                s=min(6.0, 2000 / len(cloud)),
                color=colour(paint),
                alpha=0.5,
                linewidths=0,
                rasterized=True,
            )
    return figure(
        picture.svg,
        "Pairs of columns.",
        "Data below the diagonal (blue), samples above it (orange), on the same scales: the panels should be mirror "
        "images of each other. "
        f"{left_out(count, run.trained.flow.dimensions)}",
    )
