"""Curves over several seeds: a line for the mean, a band for its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contraflow.evaluation.figures import logarithmic, png_figure
from experiments.paper.paired import mean_and_error


@dataclass(frozen=True)
class Curve:
    """Values of several seeds along one axis.

    Args:
        x: positions on the axis.
        seeds: for each seed one value at each position.
        color, dashed: of the line; matplotlib's next colour by default.
    """

    x: Sequence[float]
    seeds: Sequence[Sequence[float]]
    color: str | None = None
    dashed: bool = False

    def means_and_errors(self) -> list[tuple[float, float]]:
        """Mean over seeds and its standard error (0 for one seed) at each position."""
        summaries = (mean_and_error(values) for values in zip(*self.seeds, strict=True))
        return [(mean, error or 0.0) for mean, error in summaries]


def curves_picture(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, path: Path, *, logarithmic_x: bool = False
) -> None:
    """Lines with bands of one standard error over seeds.

    Args:
        curves: name in the legend → curve.
        xlabel, ylabel: of the axes.
        path: PNG file.
        logarithmic_x: whether the x axis is logarithmic, with ticks at the positions of the first curve.
    """
    with png_figure(path, 7.6, 3.8, dpi=130) as figure:
        axes = figure.subplots()
        for name, curve in curves.items():
            points = curve.means_and_errors()
            style = "--" if curve.dashed else "-"
            (line,) = axes.plot(curve.x, [mean for mean, _ in points], style, marker=".", color=curve.color, label=name)
            lows, highs = [mean - error for mean, error in points], [mean + error for mean, error in points]
            axes.fill_between(curve.x, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
        if logarithmic_x:
            logarithmic(axes, "x", next(iter(curves.values())).x)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside right upper")
