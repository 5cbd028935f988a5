"""Pictures of samples, densities, columns and norm orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contraflow.errors import ShapeError
from contraflow.evaluation.figures import colour, grid_shape, integer_ticks, panels, png_figure
from contraflow.flow import Flow
from contraflow.lipschitz import NormOrders

#: Largest number of columns of a table in one picture.
MOST_COLUMNS = 24


def image_grid(images: Tensor, levels: int, *, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images side by side in one uint8 array ``(H, W)`` or ``(H, W, 3)``, with grey between them.

    Args:
        images: integer levels ``(n, C, h, w)`` with C = 1 or 3.
        levels: number of levels; 0 … levels-1 is stretched to 0 … 255.
        columns: number of images in a row; a square grid by default.
        gap: pixels between images.

    Raises:
        ShapeError: no image, or another shape.

    >>> image_grid(torch.zeros(4, 1, 8, 8), 17).shape
    (19, 19)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ShapeError(f"a picture needs images (n, 1 or 3, H, W), at least one, not {tuple(images.shape)}.")
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, np.uint8)
    bright = (images.double() * 255 / (levels - 1)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    for index, image in enumerate(bright.numpy()):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas[:, :, 0] if channels == 1 else canvas


@torch.no_grad()
def density_picture(flow: Flow, data: Tensor, samples: Tensor, path: Path, *, points: int = 200) -> None:
    """Three panels for a 2-D flow: data, samples, and the flow's density.

    Args:
        flow: event shape ``(2,)``; use the `Exact` estimator for a smooth picture.
        data, samples: ``(n, 2)``.
        path: PNG file.
        points: number of grid points along each side of the density.
    """
    density, extent = density_on_grid(flow.log_prob, data, points)
    with png_figure(path, 9, 3.2) as figure:
        left, middle, right = figure.subplots(1, 3)
        for axes, cloud, title in ((left, data, "data"), (middle, samples, "samples")):
            axes.scatter(*cloud[:5000].T.tolist(), s=0.5, color=colour("ink"), linewidths=0)
            axes.set_title(title)
        draw_density(right, density, extent, title="density")
        for axes in (left, middle):
            axes.set(xlim=extent[:2], ylim=extent[2:], aspect=aspect_of(extent), xticks=[], yticks=[])


def draw_density(
    axes: Any,
    density: np.ndarray,
    extent: tuple[float, float, float, float],
    brightest: float | None = None,
    title: str = "",
) -> None:
    """The density of `density_on_grid` in colours from 0 to `brightest`, its own maximum when not given."""
    axes.imshow(
        density, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=brightest, aspect=aspect_of(extent)
    )
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_frame_on(False)


def density_on_grid(
    log_prob: Callable[[Tensor], Tensor], data: Tensor, points: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A density at `points`² places of the plane, ``(y, x)``, and the left, right, bottom and top of this grid.

    Args:
        log_prob: log-density ``(n,)`` of points ``(n, 2)``.
        data: ``(n, 2)``; the grid extends a little beyond the data, in their dtype.
        points: number of grid points along each side.
    """
    largest = torch.finfo(data.dtype).max
    spans = [span(column.min().item(), column.max().item(), 0.08) for column in data.T]
    (left, right), (bottom, top) = ((max(low, -largest), min(high, largest)) for low, high in spans)
    xs, ys = (torch.from_numpy(np.linspace(*ends, points)) for ends in ((left, right), (bottom, top)))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2).to(data.dtype)
    # In float64, since data on scales far from 1 have densities that float32 cannot represent.
    density = torch.cat([log_prob(part) for part in grid.split(10_000)]).double().exp().reshape(points, points)
    return density.numpy(), (left, right, bottom, top)


def aspect_of(extent: tuple[float, float, float, float]) -> str:
    """The aspect of axes with these left, right, bottom and top: ``equal``, or ``auto`` where one side is 10 × longer.

    >>> aspect_of((0, 2, 0, 3)), aspect_of((0, 1e9, 0, 1e-6))
    ('equal', 'auto')
    """
    wide, high = extent[1] / 2 - extent[0] / 2, extent[3] / 2 - extent[2] / 2  # halves cannot overflow
    return "equal" if 0.1 * wide <= high <= 10 * wide else "auto"


def scatter_picture(data: Tensor, samples: Tensor, path: Path, columns: tuple[str, ...] | None = None) -> None:
    """Histograms of the columns of a table, data against samples; of a wide table only the first 24.

    Args:
        data, samples: ``(n, D)``.
        path: PNG file.
        columns: names of the columns.
    """
    count = min(data.shape[1], MOST_COLUMNS)
    high, wide = grid_shape(count)
    with png_figure(path, 2.6 * wide, 2.2 * high) as figure:
        grid = panels(figure, count)
        for index, axes in enumerate(grid):
            draw_column(axes, data[:, index], samples[:, index])
            axes.set_title(shortened(columns[index]) if columns else f"column {index}")
        grid[0].legend()
        if count < data.shape[1]:
            figure.suptitle(left_out(count, data.shape[1]))


def left_out(shown: int, columns: int) -> str:
    """A sentence on which columns a picture shows; empty where it shows all.

    >>> left_out(24, 900)
    'Shown are the first 24 of 900 columns.'
    """
    return f"Shown are the first {shown} of {columns:,} columns." if shown < columns else ""


def shortened(name: str) -> str:
    """At most twenty characters of a name, as the title of a small panel."""
    return name if len(name) <= 20 else f"{name[:19]}…"


def draw_column(axes: Any, data: Tensor, samples: Tensor, bars: int = 80) -> None:
    """Histograms of one column, data filled and samples as a line.

    Args:
        axes: of matplotlib.
        data, samples: ``(n,)``; the middle 99.8 % of the data is shown. Samples that are not finite have no bar.
        bars: number of bars of each histogram.
    """
    ends = torch.quantile(data[:100_000].double(), torch.tensor([0.001, 0.999]).double()).tolist()
    bins = np.linspace(*span(*ends), bars)
    style: dict[str, Any]
    for rows, style in (
        (data, {"histtype": "stepfilled", "alpha": 0.5, "label": "data", "color": colour("data")}),
        (samples, {"histtype": "step", "label": "samples", "color": colour("model")}),
    ):
        # Not density=True, which divides by the number of rows within the bins: there may be none.
        finite = rows[rows.isfinite()].numpy()
        axes.hist(finite, bins=bins, weights=np.full(len(finite), (bars - 1) / len(rows)), **style)
    axes.set_yticks([])


def span(low: float, high: float, margin: float = 0.0) -> tuple[float, float]:
    """The range to show, with a margin on both sides; it is not empty for one row or a constant column either.

    >>> span(0.0, 2.0, 0.1), span(3.0, 3.0), span(1e9, 1e9 + 10)
    ((-0.2, 2.2), (0.0, 6.0), (1000000000.0, 1000000010.0))
    """
    largest = max(abs(low), abs(high), 1e-30)
    width = high - low
    half = margin * width if width > 1e-12 * largest else largest
    return low - half, high + half


def norm_orders_picture(orders: NormOrders, path: Path) -> None:
    """The norm orders of every block along the flow, as in Figure 18 of Chen et al. 2019 (arXiv:1906.02735).

    One line for each place in a block: before its first layer and after every layer.

    Args:
        orders: from `contraflow.lipschitz.norm_orders`; infinite orders leave a gap.
        path: PNG file.

    Raises:
        ShapeError: there is no block.
    """
    if not orders.blocks:
        raise ShapeError("this flow has no residual block with norm orders: there is nothing to draw.")
    with png_figure(path, 6, 3.2) as figure:
        draw_norm_orders(figure.subplots(), orders)


def draw_norm_orders(axes: Any, orders: NormOrders) -> None:
    """The lines of `norm_orders_picture`, on axes of matplotlib."""
    blocks = list(orders.blocks.values())
    # The order after the last layer is the order before the first.
    for place in range(max(len(block) for block in blocks) - 1):
        numbers = [index for index, block in enumerate(blocks, 1) if place < len(block) - 1]
        label = "input and output" if place == 0 else f"after layer {place}"
        axes.plot(numbers, [blocks[index - 1][place] for index in numbers], ".-", label=label)
    axes.set(xlabel="residual block", ylabel="order p")
    integer_ticks(axes.xaxis)
    axes.legend()
