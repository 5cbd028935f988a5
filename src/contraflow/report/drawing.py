"""Pictures inside a page: SVG whose colours follow the page's light or dark, and pixels as data."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np

from contraflow.evaluation.pictures import save_png

#: Name → colour of it on a light and on a dark page. Figures are drawn in the light ones, which `svg` then replaces by
#: the names, so that every light colour occurs once.
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
    """A colour of the palette as figures take it."""
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


class Drawing:
    """A figure on its way into the page; `svg` holds it once the context of `drawing` is left."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(name: str, alt: str, width: float = 7.4, height: float = 3.0) -> Iterator[Drawing]:
    """A matplotlib figure in the page's style.

    Args:
        name: of the picture, different for every one of a page.
        alt: what it shows, for those who cannot see it.
        width, height: in inches; the page's column is 7.4 wide.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        one = Drawing(Figure(figsize=(width, height), layout="constrained"))
        yield one
        buffer = io.StringIO()
        one.figure.savefig(buffer, format="svg", transparent=True, dpi=180, metadata={"Date": None})
    one.svg = _for_the_page(buffer.getvalue(), name, alt)


@contextmanager
def panels(
    name: str, alt: str, count: int, height: float, margin: float = 0.3, **options: Any
) -> Iterator[tuple[Drawing, list[Any]]]:
    """As `drawing`, with so many axes, at most four in a row.

    Args:
        name, alt: as for `drawing`.
        count: of axes.
        height: of a row of them, in inches.
        margin: around all rows, in inches.
        options: for matplotlib's ``subplots``.
    """
    wide = min(count, 4)
    high = math.ceil(count / wide)
    with drawing(name, alt, height=margin + height * high) as picture:
        axes = np.ravel(picture.figure.subplots(high, wide, squeeze=False, **options))
        for rest in axes[count:]:
            rest.set_axis_off()
        yield picture, list(axes[:count])


def _for_the_page(svg: str, name: str, alt: str) -> str:
    """The <svg> element alone, its colours named, its ids unlike those of other pictures."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for key, shades in PALETTE.items():
        svg = svg.replace(shades["light"], f"var(--{key})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def power_of_ten(value: float, position: int = 0) -> str:
    """A tick of a logarithmic axis; matplotlib's own need the mathtext that names of columns must not be read as.

    An axis whose limits underflow asks for one at 0, which has none.

    >>> power_of_ten(1e-3), power_of_ten(1.0), power_of_ten(200.0), power_of_ten(0.0)
    ('10⁻³', '1', '', '')
    """
    if not value > 0:
        return ""
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-6:
        return ""
    return "1" if round(exponent) == 0 else f"10{str(round(exponent)).translate(_SUPERSCRIPT)}"


def pixels(array: np.ndarray, alt: str, width: int) -> str:
    """A uint8 picture ``(H, W)`` or ``(H, W, 3)`` as an <img>, its pixels square and sharp.

    Args:
        array: the picture.
        alt: what it shows.
        width: on the page, in CSS pixels.
    """
    buffer = io.BytesIO()
    save_png(array, buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}">'
