"""Two dimensions, where everything can be seen: density, samples, and the plane as the flow bends it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contraflow.evaluation.pictures import aspect_of, density_on_grid
from contraflow.logdet import Exact
from contraflow.report.drawing import colour, drawing
from contraflow.report.page import figure
from contraflow.report.run_data import Subject

_SHOWN = 3000


def plane(subject: Subject) -> list[str] | None:
    """The section of a flow on the plane."""
    if subject.trained.flow.event_shape != (2,):
        return None
    return [densities(subject), warped_grids(subject)]


@torch.no_grad()
def densities(subject: Subject) -> str:
    """The model's density, the true one where it is known, and samples over data."""
    flow, data = subject.trained.flow.with_logdet(Exact()), subject.data.test
    panels = {"density of the flow": density_on_grid(flow.log_prob, data, 150)}
    truth = subject.data.density
    if truth is not None and truth.log_prob is not None:
        panels["true density"] = density_on_grid(truth.log_prob, data, 150)
    brightest = float(np.quantile(np.concatenate([one.ravel() for one, _ in panels.values()]), 0.999))
    with drawing("densities", "density of the flow, true density, samples", height=2.9) as picture:
        axes = np.ravel(picture.figure.subplots(1, len(panels) + 1, squeeze=False))
        for (title, (density, extent)), one in zip(panels.items(), axes, strict=False):
            one.imshow(density, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=brightest)
            one.set_title(title)
        _scatter(axes[-1], data, "data")
        _scatter(axes[-1], subject.samples, "model")
        axes[-1].set_title("samples (orange) on test data")
        for one in axes:
            _bare(one, extent)
    return figure(
        picture.svg,
        "Density and samples.",
        "One scale of colours. Look at the edges, which a continuous map can only make steep and never sharp, and at "
        "the gaps: mass in them, or threads between separate parts, is what invertibility costs. Samples ought to fall "
        "where data are, as densely.",
    )


def _scatter(axes: Any, cloud: Tensor, paint: str) -> None:
    axes.scatter(*cloud[:_SHOWN].T.tolist(), s=1.2, color=colour(paint), alpha=0.6, linewidths=0, rasterized=True)


def _bare(axes: Any, extent: tuple[float, float, float, float]) -> None:
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect=aspect_of(extent), xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@torch.no_grad()
def warped_grids(subject: Subject) -> str:
    """A grid on the data bent into latent space, and circles of the latent bent into data space."""
    flow = subject.trained.flow
    low, high = subject.test.min(dim=0).values, subject.test.max(dim=0).values
    squares = flow(grid_lines(low, high).to(flow.device).flatten(0, 2)).reshape(2, 21, 200, 2).cpu()
    circles = flow.inverse(circle_lines().to(flow.device, flow.dtype).flatten(0, 1)).reshape(-1, 200, 2).cpu()
    with drawing("warped-grids", "a grid in data space seen in latent space, and the reverse", height=3.9) as picture:
        left, right = picture.figure.subplots(1, 2)
        for lines, paint in zip(squares, ("data", "model"), strict=True):
            for line in lines:
                left.plot(*line.T.tolist(), color=colour(paint), linewidth=0.6)
        left.set_title("a square grid on the data, in latent space")
        for line in circles:
            right.plot(*line.T.tolist(), color=colour("held"), linewidth=0.7)
        right.set_title("circles of equal latent density, in data space")
        for axes in (left, right):
            axes.set_aspect(aspect_of((*axes.get_xlim(), *axes.get_ylim())))
            axes.grid(False)
    return figure(
        picture.svg,
        "The plane, bent.",
        "Left: where the lines of a square grid over the data go (vertical lines blue, horizontal ones orange). They "
        "may crowd and bend but never cross their own kind, since the map is invertible. Right: the circles that hold "
        "10 %, 20 %, … 90 % and 99 % of the latent's mass, carried to the data; that share of the samples lies inside.",
    )


def grid_lines(low: Tensor, high: Tensor) -> Tensor:
    """21 vertical and 21 horizontal lines of 200 points over a box, ``(2, 21, 200, 2)``."""
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    places, along = ([torch.linspace(*one, count, dtype=low.dtype) for one in ends] for count in (21, 200))
    vertical = torch.stack([places[0][:, None].expand(21, 200), along[1].expand(21, 200)], dim=-1)
    horizontal = torch.stack([along[0].expand(21, 200), places[1][:, None].expand(21, 200)], dim=-1)
    return torch.stack([vertical, horizontal])


def circle_lines() -> Tensor:
    """Circles that hold 10 %, …, 90 % and 99 % of a standard normal on the plane, ``(10, 200, 2)``.

    >>> circle_lines()[:, 0, 0].square().div(-2).exp().neg().add(1)  # what lies inside: 1 - exp(-r²/2)
    tensor([0.1000, 0.2000, 0.3000, 0.4000, 0.5000, 0.6000, 0.7000, 0.8000, 0.9000, 0.9900])
    """
    shares = torch.tensor([*(tenth / 10 for tenth in range(1, 10)), 0.99])
    radii = (-2 * torch.log1p(-shares)).sqrt()
    angle = torch.linspace(0, 2 * math.pi, 200)
    return radii[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
