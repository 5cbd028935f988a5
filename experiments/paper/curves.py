"""Curves over seeds: one line for the mean, a band for its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.paper.paired import mean_and_error


@dataclass(frozen=True)
class Curve:
    """Values of every seed along one axis.

    Args:
        x: places.
        seeds: for every seed a value a place.
        color, dashed: of the line; matplotlib's own next colour when none is given.
    """

    x: Sequence[float]
    seeds: Sequence[Sequence[float]]
    color: str | None = None
    dashed: bool = False

    def means_and_errors(self) -> list[tuple[float, float]]:
        """Mean over seeds and its standard error, place by place; 0 with one seed."""
        summed = (mean_and_error(values) for values in zip(*self.seeds, strict=True))
        return [(mean, error or 0.0) for mean, error in summed]


def curves_picture(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, path: Path, *, logarithmic: bool = False
) -> None:
    """Lines with bands of one standard error over seeds.

    Args:
        curves: name in the legend → curve.
        path: PNG file.
        logarithmic: x in factors of two.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        found = curve.means_and_errors()
        style = "--" if curve.dashed else "-"
        (line,) = axes.plot(curve.x, [mean for mean, _ in found], style, marker=".", color=curve.color, label=name)
        lows, highs = [mean - error for mean, error in found], [mean + error for mean, error in found]
        axes.fill_between(curve.x, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
    if logarithmic:
        axes.set_xscale("log", base=2)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, format="png", dpi=130)
