"""Figures, made in one place: their style, PNG files, and SVG and images inside an HTML page."""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from contraflow.files import replacing

#: Name → colour of it on a light and on a dark page. Figures are drawn in the light colours, each of which occurs
#: once, and `svg_figure` replaces them by CSS variables of these names.
PALETTE: dict[str, dict[str, str]] = {
    "paper": {"light": "#fcfbf8", "dark": "#15181b"},
    "shade": {"light": "#f1efe9", "dark": "#1f2327"},
    "rule": {"light": "#dedad1", "dark": "#33393f"},
    "quiet": {"light": "#686d72", "dark": "#9aa1a8"},
    "ink": {"light": "#1c2126", "dark": "#e8e5de"},
    "data": {"light": "#2f6f94", "dark": "#79b8dc"},
    "model": {"light": "#b8552b", "dark": "#ec9468"},
    "held": {"light": "#4d7a45", "dark": "#93c389"},
    "other": {"light": "#83579a", "dark": "#c39bd6"},
}


def colour(name: str) -> str:
    """The colour that figures are drawn in under a name of the palette."""
    return PALETTE[name]["light"]


_STYLE: dict[Any, Any] = {
    "axes.edgecolor": colour("quiet"),
    "axes.grid": True,
    "axes.labelcolor": colour("quiet"),
    "axes.labelsize": 9,
    "axes.prop_cycle": f"cycler('color', {[colour(name) for name in ('data', 'model', 'held', 'other', 'quiet')]})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": colour("ink"),
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "font.size": 9,
    "grid.color": colour("rule"),
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "contraflow",
    "text.color": colour("ink"),
    "text.parse_math": False,
    "xtick.color": colour("quiet"),
    "xtick.labelsize": 8.5,
    "ytick.color": colour("quiet"),
    "ytick.labelsize": 8.5,
}


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def _styled(width: float, height: float) -> Iterator[Any]:
    """An empty figure in the house style, so many inches wide and high."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn in its place
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def png_figure(path: Path, width: float, height: float, dpi: int = 150) -> Iterator[Any]:
    """A matplotlib figure that is written to a PNG file when the context ends.

    Text is drawn as it is, names of columns and files included: a dollar sign starts no formula.

    Args:
        path: the file.
        width, height: in inches.
        dpi: pixels an inch.

    Raises:
        OutputError: the file could not be written; an old file of that name is intact.
    """
    with _styled(width, height) as figure:
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=dpi)


class SvgFigure:
    """A matplotlib figure for the page; `svg` holds its markup once the context of `svg_figure` has ended."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def svg_figure(name: str, alt: str, width: float = 7.4, height: float = 3.0) -> Iterator[SvgFigure]:
    """A matplotlib figure that becomes an <svg> element, whose colours follow the page's light or dark.

    Args:
        name: of the picture, different for every one on a page.
        alt: what it shows, for those who cannot see it.
        width, height: in inches; the page's column is 7.4 wide.
    """
    with _styled(width, height) as figure:
        picture = SvgFigure(figure)
        yield picture
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=180, metadata={"Date": None})
    picture.svg = _for_the_page(buffer.getvalue(), name, alt)


@contextmanager
def svg_panels(
    name: str, alt: str, count: int, height: float, margin: float = 0.3, **options: Any
) -> Iterator[tuple[SvgFigure, list[Any]]]:
    """As `svg_figure`, with `count` axes.

    Args:
        name, alt: as for `svg_figure`.
        count: number of axes.
        height: of a row of axes, in inches.
        margin: around all rows, in inches.
        options: for matplotlib's ``subplots``.
    """
    with svg_figure(name, alt, height=margin + height * grid_shape(count)[0]) as picture:
        yield picture, panels(picture.figure, count, **options)


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of a grid of `count` panels, at most four in a row.

    >>> grid_shape(3), grid_shape(9)
    ((1, 3), (3, 4))
    """
    columns = min(count, 4)
    return math.ceil(count / columns), columns


def panels(figure: Any, count: int, **options: Any) -> list[Any]:
    """`count` axes on the grid of `grid_shape`.

    Args:
        figure: of matplotlib.
        count: number of axes.
        options: for matplotlib's ``subplots``.
    """
    axes = np.ravel(figure.subplots(*grid_shape(count), squeeze=False, **options))
    for unused in axes[count:]:
        unused.set_axis_off()
    return list(axes[:count])


def _for_the_page(svg: str, name: str, alt: str) -> str:
    """The <svg> element, its colours CSS variables, its ids with the picture's name before them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for key, shades in PALETTE.items():
        svg = svg.replace(shades["light"], f"var(--{key})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def logarithmic(axes: Any, which: str, ticks: Sequence[float] = ()) -> None:
    """Make the x or the y axis logarithmic; matplotlib's own labels need formulas, which `_STYLE` turns off.

    Args:
        axes: of matplotlib.
        which: ``x`` or ``y``.
        ticks: where to place ticks, labelled by their values; at powers of ten when none are given.
    """
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    if ticks:
        axis.set_ticks(ticks, labels=[f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in ticks])
    else:
        axis.set_major_formatter(power_of_ten)
    axes.minorticks_off()


def power_of_ten(value: float, position: int = 0) -> str:
    """The label of a tick of a logarithmic axis; empty between powers of ten, and at 0, where limits underflow.

    >>> power_of_ten(1e-3), power_of_ten(1.0), power_of_ten(200.0), power_of_ten(0.0)
    ('10⁻³', '1', '', '')
    """
    if not value > 0:
        return ""
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-6:
        return ""
    return "1" if round(exponent) == 0 else f"10{str(round(exponent)).translate(_SUPERSCRIPT)}"


def integer_ticks(axis: Any) -> None:
    """Place the ticks of an axis of matplotlib at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def depth_colours(figure: Any, axes: Any, count: int, label: str) -> Callable[[int], Any]:
    """Place → colour of a line among 1, …, `count`, with a colour bar beside the axes.

    Args:
        figure, axes: of matplotlib.
        count: number of lines.
        label: of the colour bar.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    # The ends of the map are left out: they vanish on a dark or on a light page.
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.15, 0.8, 256)))
    depth = Normalize(1, max(count, 2))
    bar = figure.colorbar(ScalarMappable(depth, shades), ax=axes, label=label, pad=0.02)
    integer_ticks(bar.ax.yaxis)
    bar.outline.set_visible(False)
    return lambda place: shades(depth(place))


def save_png(array: np.ndarray, path: Path, *, scale: int = 1) -> None:
    """Write a uint8 picture to a PNG file, every pixel enlarged `scale` times.

    Raises:
        OutputError: the file could not be written; an old file of that name is intact.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_png(array.repeat(scale, axis=0).repeat(scale, axis=1)))


def png_image(array: np.ndarray, alt: str, width: int) -> str:
    """A uint8 picture ``(H, W)`` or ``(H, W, 3)`` as an <img> element that holds its own data, its pixels sharp.

    Args:
        array: the picture.
        alt: what it shows.
        width: on the page, in CSS pixels.
    """
    data = base64.b64encode(_png(array)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}">'


def _png(array: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
