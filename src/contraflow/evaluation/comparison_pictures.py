"""Pictures that compare several flows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from contraflow.evaluation.figures import colour, grid_shape, panels, png_figure
from contraflow.evaluation.pictures import density_on_grid, draw_density


def scores_picture(
    scores: Mapping[str, Sequence[float]], unit: str, path: Path, truth: float | None = None, title: str = ""
) -> None:
    """A point for each run, and the mean of each architecture with its standard error over runs.

    Args:
        scores: architecture → scores of its runs, in the order to show.
        unit: of the scores.
        path: PNG file.
        truth: the score of the true density, drawn as a line.
        title: of the picture.
    """
    with png_figure(path, 6, 1.2 + 0.4 * len(scores)) as figure:
        axes = figure.subplots()
        for place, values in enumerate(scores.values()):
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            axes.plot(values, [place] * len(values), "o", color=colour("data"), alpha=0.4)
            mean = [statistics.mean(values)]
            axes.errorbar(mean, [place], xerr=[error], fmt="|", color=colour("ink"), capsize=4, markersize=12)
        if truth is not None:
            axes.axvline(truth, color=colour("held"), linestyle="--", label="true density")
            axes.legend()
        axes.set_yticks(range(len(scores)), labels=list(scores))
        axes.invert_yaxis()
        axes.set(xlabel=f"held-out {unit}", title=title)


@torch.no_grad()
def densities_picture(
    densities: Mapping[str, Callable[[Tensor], Tensor]], data: Tensor, path: Path, *, points: int = 150
) -> None:
    """Densities on the plane, one panel each, all on the colour scale of the first.

    Args:
        densities: title → log-density ``(n,)`` of points ``(n, 2)``.
        data: ``(n, 2)``; the range of the data is shown.
        path: PNG file.
        points: number of grid points along each side.
    """
    grids = {title: density_on_grid(log_prob, data, points) for title, log_prob in densities.items()}
    brightest = next(iter(grids.values()))[0].max()
    high, wide = grid_shape(len(grids))
    with png_figure(path, 2.4 * wide, 2.6 * high) as figure:
        for axes, (title, (density, extent)) in zip(panels(figure, len(grids)), grids.items(), strict=True):
            draw_density(axes, density, extent, brightest, title)
