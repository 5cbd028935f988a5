"""Time of a training step against batch size, width, depth and dimension, compared with its multiplications.

    python -m experiments.benchmarks.scaling

Writes the section `scaling` of docs/generated/benchmarks.md and docs/pictures/scaling.png.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from contraflow.evaluation.figures import colour, logarithmic, png_figure
from contraflow.logdet import TRAINING
from experiments.benchmarks.cases import Case, our_step
from experiments.benchmarks.pages import BENCHMARKS, PICTURES, fill
from experiments.benchmarks.timing import Timing, alternate, hardware

DENSE = Case("dense", (32,), 4, (128,) * 3, 512)
IMAGE = Case("image", (3, 16, 16), (2,), 64, 16)


@dataclass(frozen=True)
class Sweep:
    """A flow with increasing sizes of one kind, each twice the previous one.

    Args:
        flow, varied: names of the flow and of the size that varies.
        sizes: values of the size.
        cases: the flow with each of them.
    """

    flow: str
    varied: str
    sizes: tuple[int, ...]
    cases: tuple[Case, ...]


#: A sweep, and the times at its sizes.
Measured = tuple[Sweep, Sequence[Timing]]


def sweeps() -> list[Sweep]:
    """Four sweeps of a dense flow around 4 blocks of 3×128 in 32 dimensions, and four of a convolutional flow."""
    batches, widths, depths, dimensions = (256, 512, 1024, 2048), (64, 128, 256, 512), (2, 4, 8, 16), (16, 32, 64, 128)
    rows, channels, blocks, sides = (8, 16, 32, 64), (32, 64, 128, 256), (1, 2, 4, 8), (8, 16, 32)
    return [
        Sweep("dense", "batch", batches, tuple(replace(DENSE, batch=n) for n in batches)),
        Sweep("dense", "width", widths, tuple(replace(DENSE, hidden=(n,) * 3) for n in widths)),
        Sweep("dense", "depth", depths, tuple(replace(DENSE, blocks=n) for n in depths)),
        Sweep("dense", "dimension", dimensions, tuple(replace(DENSE, event_shape=(n,)) for n in dimensions)),
        Sweep("image", "batch", rows, tuple(replace(IMAGE, batch=n) for n in rows)),
        Sweep("image", "channels", channels, tuple(replace(IMAGE, hidden=n) for n in channels)),
        Sweep("image", "depth", blocks, tuple(replace(IMAGE, blocks=(n,)) for n in blocks)),
        Sweep("image", "side", sides, tuple(replace(IMAGE, event_shape=(3, n, n)) for n in sides)),
    ]


def main() -> None:
    """Measure, and write picture and section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="number of steps at each size")
    rounds: int = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows: list[str] = []
    measured: list[Measured] = []
    for sweep in sweeps():
        found = times(sweep, rounds)
        rows.append(table_row(sweep, found))
        measured.append((sweep, found))
        print(rows[-1], flush=True)
    picture(measured)
    fill(BENCHMARKS, "scaling", text(rounds) + "\n".join(rows) + "\n\n" + verdict(measured))


def times(sweep: Sweep, rounds: int) -> list[Timing]:
    """Times at all sizes, measured in turns."""
    steps = {
        str(size): our_step(case.ours(TRAINING), case.data())
        for size, case in zip(sweep.sizes, sweep.cases, strict=True)
    }
    gc.collect()
    return list(alternate(steps, rounds).values())


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value against log size, by least squares."""
    x, y = ([math.log(one) for one in column] for column in (sizes, values))
    return statistics.linear_regression(x, y).slope


def slope_with_error(sizes: Sequence[float], timings: Sequence[Timing]) -> tuple[float, float]:
    """Mean slope over rounds, and its standard error."""
    of_rounds = [slope(sizes, seconds) for seconds in zip(*(one.seconds for one in timings), strict=True)]
    return statistics.mean(of_rounds), statistics.stdev(of_rounds) / math.sqrt(len(of_rounds))


def products(case: Case) -> int:
    """Multiplications of one evaluation of all g; a step has n + 7 times as many."""
    if isinstance(case.hidden, int):
        channels, height, width = case.event_shape
        inside = 9 * channels * case.hidden + case.hidden**2 + 9 * case.hidden * channels
        return case.batch * case.count * height * width * inside
    widths = (*case.event_shape, *case.hidden, *case.event_shape)
    return case.batch * case.count * sum(a * b for a, b in itertools.pairwise(widths))


def text(rounds: int) -> str:
    """Description of the measurement."""
    dense = f"{DENSE.blocks} blocks of 3×128, {DENSE.event_shape[0]}-D, {DENSE.batch} rows"
    image = f"{IMAGE.count} blocks 3×3 → 1×1 → 3×3 of {IMAGE.hidden} channels on 3×16×16, {IMAGE.batch} images"
    return (
        f"`python -m experiments.benchmarks.scaling --rounds {rounds}` on {hardware()}. Processor time of a training "
        f"step as in the\nfirst section, dual pass, with sizes varied around two flows: {dense}; {image}.\nSlopes of "
        "log time against log size by least squares, mean ± standard error over rounds, sizes in turns; "
        "also\nbetween the two largest sizes alone, where constant costs matter least. *Predicted* is the slope of "
        "the number\nof multiplications at the same sizes, which tends to 1 for batch, depth and dimension, to 2 for "
        "width or\nchannels, and is 2 for the side of an image.\n\n![time of a step against its "
        "multiplications](../pictures/scaling.png)\n\n| flow | varied | sizes | slope | predicted | at the largest | "
        "predicted |\n|---|---|---|---|---|---|---|\n"
    )


def table_row(sweep: Sweep, timings: Sequence[Timing]) -> str:
    """Slopes over all sizes and between the last two."""
    cells = []
    for measured, error, predicted in slopes(sweep, timings):
        cells += [f"{measured:.2f} ± {error:.2f}", f"{predicted:.2f}"]
    return f"| {sweep.flow} | {sweep.varied} | {', '.join(map(str, sweep.sizes))} | {' | '.join(cells)} |"


def slopes(sweep: Sweep, timings: Sequence[Timing]) -> list[tuple[float, float, float]]:
    """Measured slope, its standard error, and predicted slope: over all sizes, and between the last two."""
    count = [products(case) for case in sweep.cases]
    return [
        (*slope_with_error(sweep.sizes[-last:], timings[-last:]), slope(sweep.sizes[-last:], count[-last:]))
        for last in (len(count), 2)
    ]


def verdict(measured: Sequence[Measured]) -> str:
    """The sweeps in which time grows faster than the number of multiplications."""
    faster = [
        f"{sweep.flow}, {sweep.varied}"
        for sweep, timings in measured
        if any(slope - predicted > 2 * error + 1e-9 for slope, error, predicted in slopes(sweep, timings))
    ]
    if faster:
        return f"The slope exceeds its prediction by more than two standard errors for: {'; '.join(faster)}."
    return "No slope exceeds its prediction by more than two standard errors."


def picture(measured: Sequence[Measured]) -> None:
    """Seconds against multiplications, one panel for each flow; the dotted line has slope 1."""
    with png_figure(PICTURES / "scaling.png", 9, 4, dpi=100) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, flow in zip(panels, ("dense", "image"), strict=True):
            top, sizes = 0.0, [0]
            for sweep, timings in measured:
                if sweep.flow == flow:
                    count, seconds = [products(case) for case in sweep.cases], [timing.median for timing in timings]
                    axes.plot(count, seconds, marker="o", markersize=3, label=sweep.varied)
                    top, sizes = max(top, *seconds), [*sizes, *count]
            low, high = min(sizes[1:]), max(sizes)
            axes.plot([low, high], [top * low / high, top], linestyle=":", color=colour("quiet"))
            axes.set(xlabel="multiplications of one evaluation of all g", title=flow)
            logarithmic(axes, "x")
            logarithmic(axes, "y")
            axes.legend()
        panels[0].set_ylabel("seconds of processor time per step")


if __name__ == "__main__":
    main()
