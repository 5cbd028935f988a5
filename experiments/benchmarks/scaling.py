"""The time of a training step against batch, width, depth and dimension, beside the number of its products.

    python -m experiments.benchmarks.scaling

writes the section `scaling` of docs/benchmarks.md and docs/pictures/scaling.png.
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
    """A flow at growing sizes of one kind, each the double of the one before.

    Args:
        flow, varied: for the table.
        sizes: of what is varied.
        cases: the flow at each of them.
    """

    flow: str
    varied: str
    sizes: tuple[int, ...]
    cases: tuple[Case, ...]


#: A sweep, and the time at each of its sizes.
Measured = tuple[Sweep, Sequence[Timing]]


def sweeps() -> list[Sweep]:
    """Four of a dense flow around 4 blocks of 3×128 in 32 dimensions, four of a convolutional one."""
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
    parser.add_argument("--rounds", type=int, default=11, help="steps at every size")
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
    """The sizes in turns."""
    steps = {
        str(size): our_step(case.ours(TRAINING), case.data())
        for size, case in zip(sweep.sizes, sweep.cases, strict=True)
    }
    gc.collect()
    return list(alternate(steps, rounds).values())


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of log value against log size, by least squares."""
    x, y = ([math.log(one) for one in column] for column in (sizes, values))
    return statistics.linear_regression(x, y).slope


def slope_with_error(sizes: Sequence[float], timings: Sequence[Timing]) -> tuple[float, float]:
    """Mean over rounds of the slope of a round, and its standard error."""
    found = [slope(sizes, seconds) for seconds in zip(*(one.seconds for one in timings), strict=True)]
    return statistics.mean(found), statistics.stdev(found) / math.sqrt(len(found))


def products(case: Case) -> int:
    """Multiplications of one evaluation of every g; a step is so many times n + 7 of them (design: 11)."""
    if isinstance(case.hidden, int):
        channels, height, width = case.event_shape
        inside = 9 * channels * case.hidden + case.hidden**2 + 9 * case.hidden * channels
        return case.batch * case.count * height * width * inside
    widths = (*case.event_shape, *case.hidden, *case.event_shape)
    return case.batch * case.count * sum(a * b for a, b in itertools.pairwise(widths))


def text(rounds: int) -> str:
    """What was measured, and how."""
    dense = f"{DENSE.blocks} blocks of 3×128, {DENSE.event_shape[0]}-D, {DENSE.batch} rows"
    image = f"{IMAGE.count} blocks 3×3 → 1×1 → 3×3 of {IMAGE.hidden} channels on 3×16×16, {IMAGE.batch} images"
    return (
        f"`python -m experiments.benchmarks.scaling --rounds {rounds}` on {hardware()}. A training step as in the "
        f"first section,\nroute dual, in processor time, around two flows: {dense}; {image}.\n"
        "Slopes of log time against log size by least squares, mean ± standard error over rounds, the sizes in turns;\n"
        "and the same between the two largest sizes alone, where what does not grow counts least. *Predicted* is the\n"
        "slope of the number of multiplications at the same sizes, which tends to 1 in batch, depth and dimension,\n"
        "to 2 in width or channels, and is 2 in the side of an image.\n\n"
        "![time of a step against its multiplications](pictures/scaling.png)\n\n"
        "| flow | varied | sizes | slope | predicted | at the largest | predicted |\n|---|---|---|---|---|---|---|\n"
    )


def table_row(sweep: Sweep, timings: Sequence[Timing]) -> str:
    """Slopes over all sizes and over the last two."""
    cells = []
    for measured, error, predicted in slopes(sweep, timings):
        cells += [f"{measured:.2f} ± {error:.2f}", f"{predicted:.2f}"]
    return f"| {sweep.flow} | {sweep.varied} | {', '.join(map(str, sweep.sizes))} | {' | '.join(cells)} |"


def slopes(sweep: Sweep, timings: Sequence[Timing]) -> list[tuple[float, float, float]]:
    """Measured, its standard error, and predicted: over all sizes, and between the last two."""
    count = [products(case) for case in sweep.cases]
    return [
        (*slope_with_error(sweep.sizes[-last:], timings[-last:]), slope(sweep.sizes[-last:], count[-last:]))
        for last in (len(count), 2)
    ]


def verdict(measured: Sequence[Measured]) -> str:
    """What grows faster than its products."""
    faster = [
        f"{sweep.flow}, {sweep.varied}"
        for sweep, timings in measured
        if any(found - predicted > 2 * error + 1e-9 for found, error, predicted in slopes(sweep, timings))
    ]
    if faster:
        return f"Faster than its products, by more than two standard errors, grows the time in: {'; '.join(faster)}."
    return "No slope is above its prediction by more than two standard errors: nothing grows faster than its products."


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
