"""Peak memory of a training step against depth, ours and the peer's: Figure 3 of the paper.

    python -m experiments.benchmarks.memory [--device cuda]

Writes the section `memory` of docs/generated/benchmarks.md and docs/pictures/memory.png, or `cuda memory` and
memory-cuda.png.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import normflows as nf
import torch
from torch import nn

from contraflow.bijections import Chain, ResidualBlock
from contraflow.evaluation.figures import logarithmic, png_figure
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzLayer, update_lipschitz
from contraflow.logdet import PowerSeries
from experiments.benchmarks.cases import Case
from experiments.benchmarks.pages import BENCHMARKS, PICTURES, fill, on
from experiments.benchmarks.peer import SCHEMES
from experiments.benchmarks.timing import hardware
from experiments.paper.peak import Peak, step_peak

DEPTHS = (1, 2, 4, 8, 16, 32, 48)
#: Depths between which the memory of one more block is computed.
SLOPE = (8, 16)
HIDDEN = (128, 512)
TERMS = 10
FEWER_TERMS = 4
#: No other size has a factor of five, so `step_peak` can identify the tensors with one row for each sample.
BATCH = 5
#: Bytes; depths at which a scheme would need more are not run.
LIMIT = 12e9

OURS = ("dual", "kept")
PEERS = ("series", "neumann", "neumann + backward in forward")
NAMES = {
    "dual": "ours, dual (default)",
    "kept": "ours, kept",
    "series": "peer, series",
    "neumann": "peer, Neumann",
    "neumann + backward in forward": "peer, Neumann + backward in forward",
}


#: Scheme → blocks → peak.
Growth = dict[str, dict[int, Peak]]


def main() -> None:
    """Measure, and write picture and section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device: str = parser.parse_args().device
    torch.set_num_threads(1)
    fill(BENCHMARKS, on(device, "memory"), section(device))


def section(device: str = "cpu") -> str:
    """Figure, tables against depth, memory of one more block, and the paper's depth."""
    side = 8 if device == "cpu" else 32
    deep = {hidden: Case("", (3, side, side), (DEPTHS[-1],), hidden, BATCH) for hidden in HIDDEN}
    growth = {hidden: growing(case, TERMS, DEPTHS, device) for hidden, case in deep.items()}
    few = {hidden: growing(case, FEWER_TERMS, SLOPE, device) for hidden, case in deep.items()}
    paper = Case("", (3, 32, 32), (16, 16, 16), 512, BATCH)
    whole = growing(paper, TERMS, (48,), device, PEERS[1:])
    picture(growth, PICTURES / drawing(device), side)
    data = 4 * math.prod(deep[HIDDEN[0]].event_shape) * BATCH
    parts = [about(device, side, data), *(table(hidden, growth[hidden]) for hidden in HIDDEN)]
    return "\n\n".join([*parts, slopes(growth, few, data), at_the_papers_depth(whole)])


def drawing(device: str) -> str:
    """File name of the picture."""
    return "memory.png" if device == "cpu" else f"memory-{device}.png"


def about(device: str, side: int, data: int) -> str:
    """Description of the measurement."""
    command = "python -m experiments.benchmarks.memory" + ("" if device == "cpu" else f" --device {device}")
    return (
        f"`{command}` on {hardware()}.\n\n![peak memory at growing depth](../pictures/{drawing(device)})\n\nFigure 3 "
        "of the paper: peak of the bytes of all tensors in one training step (forward, backward, AdamW). Blocks 3×3 → "
        f"1×1 → 3×3 on one level of 3×{side}×{side}, {BATCH} images, {TERMS} terms of the series unless the table "
        "says otherwise, float32. All allocations and releases are read from torch's profiler, so the numbers are "
        "exact and reproducible; scratch memory of oneDNN is not included. *All* includes weights, gradients and "
        "optimiser state, which grow with hidden² for each block under all schemes, the normalised weights of the "
        "peer, and our W v of each layer, of the size of one image, stored for the gradient of σ(W). *Activations* "
        f"are the tensors with one row for each sample. The data have {data:,} bytes. The power iteration before the "
        "step is not included; it needs up to two copies of the weights of one shape."
    )


def table(hidden: int, growth: Growth) -> str:
    """MB of all tensors and of activations at each depth."""
    rows = [
        f"**Hidden {hidden}**, MB: all / activations; *ratio*: ours, dual, over the best of the peer's.",
        "",
        f"| blocks | {' | '.join(NAMES[scheme] for scheme in growth)} | ratio |",
        f"|---|{'---|' * (len(growth) + 1)}",
    ]
    for depth in DEPTHS:
        cells = [cell(peaks[depth]) if depth in peaks else "over the limit" for peaks in growth.values()]
        rows.append(f"| {depth} | {' | '.join(cells)} | {ratios(growth, depth)} |")
    return "\n".join(rows)


def cell(found: Peak) -> str:
    """MB, all / activations."""
    return f"{found.total / 1e6:.1f} / {found.activations / 1e6:.1f}"


def ratios(growth: Growth, depth: int) -> str:
    """Ours, dual, over the peer's best: all / activations."""
    peers = [growth[scheme][depth] for scheme in PEERS if depth in growth.get(scheme, {})]
    ours = growth["dual"][depth]
    everything = ours.total / min(one.total for one in peers)
    return f"{everything:.2f} / {ours.activations / min(one.activations for one in peers):.3f}"


def slopes(growth: dict[int, Growth], few: dict[int, Growth], data: int) -> str:
    """Activations of one more block, in units of the size of the data."""
    columns = [
        (hidden, terms, peaks[hidden]) for hidden in HIDDEN for terms, peaks in ((FEWER_TERMS, few), (TERMS, growth))
    ]
    heads = [f"hidden {hidden}, {terms} terms" for hidden, terms, _ in columns]
    rows = [
        f"Activations that one more block adds, between {SLOPE[0]} and {SLOPE[1]} blocks, in units of the size of the "
        f"data ({data:,} bytes):",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for scheme, name in NAMES.items():
        cells = [f"{slope(peaks[scheme]) / data:.2f}" for _, _, peaks in columns]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def slope(peaks: Mapping[int, Peak]) -> float:
    """Bytes of activations of one more block."""
    low, high = SLOPE
    return (peaks[high].activations - peaks[low].activations) / (high - low)


def at_the_papers_depth(growth: Growth) -> str:
    """Table for 16-16-16 blocks of 512, as for CIFAR-10."""
    rows = [
        f"The paper's depth: 16-16-16 blocks of 512 on 3×32×32, {BATCH} images, {TERMS} terms (the peer's series is "
        f"left out: by the slopes above it is over {LIMIT / 1e9:.0f} GB):",
        "",
        "| scheme | all, MB | activations, MB |",
        "|---|---|---|",
    ]
    for scheme, peaks in growth.items():
        rows.append(f"| {NAMES[scheme]} | {peaks[48].total / 1e6:.1f} | {peaks[48].activations / 1e6:.1f} |")
    rows.append(f"| ratio of dual to the peer's best | {' | '.join(ratios(growth, 48).split(' / '))} |")
    return "\n".join(rows)


def picture(growth: dict[int, Growth], path: Path, side: int) -> None:
    """Peak memory against depth, one panel for each hidden width: all tensors solid, activations dashed."""
    with png_figure(path, 11, 4.5, dpi=110) as figure:
        panels = figure.subplots(1, len(growth), sharey=True)
        for axes, (hidden, found) in zip(panels, growth.items(), strict=True):
            for color, (scheme, peaks) in enumerate(found.items()):
                total, activations = zip(
                    *((peak.total / 1e6, peak.activations / 1e6) for peak in peaks.values()), strict=True
                )
                axes.plot(list(peaks), total, f"C{color}o-", markersize=3, label=NAMES[scheme])
                axes.plot(list(peaks), activations, f"C{color}--", linewidth=1)
            axes.set(xlabel="residual blocks", title=f"hidden {hidden}, {BATCH} × 3×{side}×{side}")
            logarithmic(axes, "x", DEPTHS)
            logarithmic(axes, "y")
        panels[0].set_ylabel("peak of a training step, MB; dashed: activations")
        panels[0].legend()


def growing(case: Case, terms: int, depths: Sequence[int], device: str, peers: Sequence[str] = PEERS) -> Growth:
    """Peaks of all schemes; depths that would exceed the limit are omitted."""
    return {**_grow(Ours(case, device), OURS, terms, depths), **_grow(Peer(case, device), peers, terms, depths)}


def _grow(side: Ours | Peer, schemes: Sequence[str], terms: int, depths: Sequence[int]) -> Growth:
    growth: Growth = {scheme: {} for scheme in schemes}
    for scheme, peaks in growth.items():
        for depth in depths:
            if peaks and max(one.total / blocks for blocks, one in peaks.items()) * depth > LIMIT:
                break
            peaks[depth] = side.measure(scheme, terms, depth)
            print(f"{side.case}, {scheme}, {terms} terms, {depth} blocks: {cell(peaks[depth])} MB", flush=True)
    return growth


class Ours:
    """Our flow, with a single power iteration, whose memory does not depend on their number."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        self.flow = case.ours(PowerSeries(TERMS)).to(device).train()
        for layer in self._layers(self.flow):
            layer.warm = True
        update_lipschitz(self.flow, max_iterations=1)
        self.x = case.data(device)

    @staticmethod
    def _layers(flow: nn.Module) -> Iterator[LipschitzLayer]:
        return (layer for layer in flow.modules() if isinstance(layer, LipschitzLayer))

    def _first(self, depth: int) -> Flow:
        level, flatten = self.flow.bijection
        return Flow(self.case.event_shape, Chain([*list(level)[: 2 * depth + 1], flatten]), self.flow.base)

    def measure(self, scheme: str, terms: int, depth: int) -> Peak:
        """Peak memory of a step of the flow's first blocks."""
        flow = self.flow if depth == sum(self.case.blocks) else self._first(depth)
        for block in flow.modules():
            if isinstance(block, ResidualBlock):
                block.gradient, block.logdet = scheme, PowerSeries(terms)
        flow.log_prob(self.x[:1])  # ActNorm
        return step_peak(flow, self.x, self.device)


class Peer:
    """The same flow in normflows, with a single power iteration."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        self.flow = case.peer("neumann", 1).to(device).train()
        self.x = case.data(device)
        self.flow.log_prob(self.x[:1])  # ActNorm, and a first power iteration of 200 steps

    def measure(self, scheme: str, terms: int, depth: int) -> Peak:
        """Peak memory of a step of the flow's first blocks, which normflows lists last."""
        flow = nf.NormalizingFlow(self.flow.q0, self.flow.flows[-self._length(depth) :])
        options = SCHEMES[scheme]
        reduce_memory = bool(options["reduce_memory"])
        for block in flow.modules():
            if isinstance(block, nf.flows.residual.iResBlock):
                block.grad_in_forward = reduce_memory
                block.neumann_grad = bool(options.get("neumann_grad", reduce_memory))
                block.n_power_series = terms

        return step_peak(flow, self.x, self.device)

    def _length(self, depth: int) -> int:
        return len(self.flow.flows) if depth == sum(self.case.blocks) else 2 * depth + 1


if __name__ == "__main__":
    main()
