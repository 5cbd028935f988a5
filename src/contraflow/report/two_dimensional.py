"""Two-dimensional data: density, samples, and how the flow deforms the plane."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation.figures import colour, svg_figure
from contraflow.evaluation.pictures import aspect_of, density_on_grid, draw_density
from contraflow.logdet import Exact
from contraflow.report.page import figure
from contraflow.report.run_data import RunData

_SHOWN = 3000


def plane(run: RunData) -> list[str] | None:
    """The section; ``None`` unless the data are two-dimensional."""
    if run.trained.flow.event_shape != (2,):
        return None
    return [densities(run), warped_grids(run)]


@torch.no_grad()
def densities(run: RunData) -> str:
    """The density of the flow, the true density if it is known, and samples on test data."""
    flow, data = run.trained.flow.with_logdet(Exact()), run.data.test
    panels = {"density of the flow": density_on_grid(flow.log_prob, data, 150)}
    truth = run.data.density
    if truth is not None and truth.log_prob is not None:
        panels["true density"] = density_on_grid(truth.log_prob, data, 150)
    brightest = float(np.quantile(np.concatenate([density.ravel() for density, _ in panels.values()]), 0.999))
    with svg_figure("densities", "density of the flow, true density, samples", height=2.9) as picture:
        axes = np.ravel(picture.figure.subplots(1, len(panels) + 1, squeeze=False))
        for (title, (density, extent)), panel in zip(panels.items(), axes, strict=False):
            draw_density(panel, density, extent, brightest, title)
        _scatter(axes[-1], data, "data")
        _scatter(axes[-1], run.samples, "model")
        axes[-1].set(title="samples (orange) on test data", xticks=[], yticks=[])
        axes[-1].set(xlim=extent[:2], ylim=extent[2:], aspect=aspect_of(extent), frame_on=False)
    return figure(
        picture.svg,
        "Density and samples.",
        "All densities have the same colour scale. Look at the edges, which a continuous map can make steep but not "
        "sharp, and at the gaps: a flow leaves some mass between separate parts of the data, since it is invertible. "
        "Samples should be where the data are, with the same density.",
    )


def _scatter(axes: Any, cloud: Tensor, paint: str) -> None:
    axes.scatter(*cloud[:_SHOWN].T.tolist(), s=1.2, color=colour(paint), alpha=0.6, linewidths=0, rasterized=True)


@torch.no_grad()
def warped_grids(run: RunData) -> str:
    """A grid in data space mapped to latent space, and circles in latent space mapped to data space."""
    flow = run.trained.flow
    low, high = run.test.min(dim=0).values, run.test.max(dim=0).values
    squares = flow(grid_lines(low, high).to(flow.device).flatten(0, 2)).reshape(2, 21, 200, 2).cpu()
    circles = flow.inverse(circle_lines().to(flow.device, flow.dtype).flatten(0, 1)).reshape(-1, 200, 2).cpu()
    with svg_figure(
        "warped-grids", "a grid in data space mapped to latent space, and the reverse", height=3.9
    ) as picture:
        left, right = picture.figure.subplots(1, 2)
        for lines, paint in zip(squares, ("data", "model"), strict=True):
            for line in lines:
                left.plot(*line.T.tolist(), color=colour(paint), linewidth=0.6)
        left.set_title("a grid in data space, mapped to latent space")
        for line in circles:
            right.plot(*line.T.tolist(), color=colour("held"), linewidth=0.7)
        right.set_title("circles of equal latent density, mapped to data space")
        for axes in (left, right):
            axes.set_aspect(aspect_of((*axes.get_xlim(), *axes.get_ylim())))
            axes.grid(False)
    return figure(
        picture.svg,
        "How the flow deforms the plane.",
        "Left: the lines of a grid over the data, mapped to latent space (vertical lines blue, horizontal orange). "
        "Lines of one colour never cross, since the map is invertible. Right: the circles that contain 10 %, 20 %, … "
        "90 % and 99 % of the mass of the base, mapped to data space; they contain the same shares of the samples.",
    )


def grid_lines(low: Tensor, high: Tensor) -> Tensor:
    """21 vertical and 21 horizontal lines of 200 points over a box, ``(2, 21, 200, 2)``."""
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    places, along = ([torch.linspace(*pair, count, dtype=low.dtype) for pair in ends] for count in (21, 200))
    vertical = torch.stack([places[0][:, None].expand(21, 200), along[1].expand(21, 200)], dim=-1)
    horizontal = torch.stack([along[0].expand(21, 200), places[1][:, None].expand(21, 200)], dim=-1)
    return torch.stack([vertical, horizontal])


def circle_lines() -> Tensor:
    """Circles that contain 10 %, …, 90 % and 99 % of the mass of a 2-D standard normal, ``(10, 200, 2)``.

    >>> circle_lines()[:, 0, 0].square().div(-2).exp().neg().add(1)  # mass inside: 1 - exp(-r²/2)
    tensor([0.1000, 0.2000, 0.3000, 0.4000, 0.5000, 0.6000, 0.7000, 0.8000, 0.9000, 0.9900])
    """
    shares = torch.tensor([*(tenth / 10 for tenth in range(1, 10)), 0.99])
    radii = (-2 * torch.log1p(-shares)).sqrt()
    angle = torch.linspace(0, 2 * math.pi, 200)
    return radii[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
