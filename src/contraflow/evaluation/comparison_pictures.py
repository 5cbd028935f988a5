"""Pictures of several flows beside each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from contraflow.evaluation.pictures import aspect_of, density_on_grid, png_figure


def scores_picture(
    scores: Mapping[str, Sequence[float]], unit: str, path: Path, truth: float | None = None, title: str = ""
) -> None:
    """A point for every run, and the mean of each architecture with its standard error over runs.

    Args:
        scores: architecture → score of each of its runs, in the order to show.
        unit: of the scores.
        path: PNG file.
        truth: the score of the true distribution, as a line.
        title: of the picture.
    """
    with png_figure(path, 6, 1.2 + 0.4 * len(scores)) as figure:
        axes = figure.subplots()
        for place, values in enumerate(scores.values()):
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
            axes.errorbar(
                [statistics.mean(values)], [place], xerr=[error], fmt="|", color="black", capsize=4, markersize=12
            )
        if truth is not None:
            axes.axvline(truth, color="tab:green", linestyle="--", label="true density")
            axes.legend()
        axes.set_yticks(range(len(scores)), labels=list(scores))
        axes.invert_yaxis()
        axes.set(xlabel=f"held-out {unit}", title=title)


@torch.no_grad()
def densities_picture(
    densities: Mapping[str, Callable[[Tensor], Tensor]], data: Tensor, path: Path, *, points: int = 150
) -> None:
    """Densities on the plane, a panel each, in one scale of colours.

    Args:
        densities: title → log-density of ``(n, 2)``, ``(n,)``.
        data: ``(n, 2)``; its extent is shown.
        path: PNG file.
        points: grid points a side.
    """
    wide = min(4, len(densities))
    high = math.ceil(len(densities) / wide)
    found = {title: density_on_grid(log_prob, data, points) for title, log_prob in densities.items()}
    brightest = next(iter(found.values()))[0].max()
    with png_figure(path, 2.4 * wide, 2.6 * high) as figure:
        panels = figure.subplots(high, wide, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, (title, (density, extent)) in zip(panels, found.items(), strict=False):
            axes.imshow(
                density,
                origin="lower",
                extent=extent,
                cmap="viridis",
                vmin=0,
                vmax=brightest,
                aspect=aspect_of(extent),
            )
            axes.set_title(title, fontsize="small")
