"""A training step beside the peer's and beside its own matrix products, and where its time goes.

    python -m benchmarks.step

writes the sections `step` and `split` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import CASES, TERMS, UPDATE, Case, bare_products, our_step, peer_step, products_a_step
from benchmarks.pages import BENCHMARKS, fill
from benchmarks.timing import Step, Timing, alternate, hardware
from contraflow.logdet import TRAINING, Exact


def main() -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="steps of every candidate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="*", type=int, default=range(len(CASES)), help="which of the flows, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, parts = [], []
    for case in (CASES[index] for index in arguments.cases):
        ours, peers = candidates(case, arguments.device)
        floor = bare_products(case.ours(TRAINING).to(arguments.device), case.data(arguments.device))
        gc.collect()
        gc.freeze()  # the collector otherwise walks through all modules again and again, ours and theirs
        found = alternate({**ours, **peers, "products": floor}, arguments.rounds)
        rows += table_rows(case, found, list(ours), list(peers))
        best = _best(found, peers)
        parts += [split_row(case, name, step) for name, step in (ours | {best: peers[best]}).items()]
        print("\n".join(rows[-len(ours) - len(peers) :] + parts[-len(ours) - 1 :]), flush=True)
    fill(BENCHMARKS, "step", step_text(arguments.rounds) + "\n".join(rows))
    fill(BENCHMARKS, "split", SPLIT_TEXT + "\n".join(parts))


def candidates(case: Case, device: str) -> tuple[dict[str, Step], dict[str, Step]]:
    """Our routes and the peer's schemes."""
    x = case.data(device)
    ours = {f"contraflow, {route}": our_step(case.ours(TRAINING, route).to(device), x) for route in ("dual", "kept")}
    lowered = replace(TRAINING, series_dtype=torch.bfloat16)
    ours["contraflow, kept, bfloat16 series"] = our_step(case.ours(lowered, "kept").to(device), x)
    schemes = ["neumann", "neumann + backward in forward"]
    if case.event_shape == (2,):
        ours["contraflow, exact, kept"] = our_step(case.ours(Exact(), "kept").to(device), x)
        schemes.append("exact (2-D)")
    return ours, {f"normflows, {scheme}": peer_step(case.peer(scheme).to(device), x) for scheme in schemes}


def step_text(rounds: int) -> str:
    """Head of the first section."""
    units = products_a_step(TRAINING)
    return (
        f"`python -m benchmarks.step` on {hardware()}. Zero gradients, Lipschitz update, forward, backward,\n"
        f"fused AdamW; medians of {rounds} steps in turns, seconds of processor time, and median and quartiles of the\n"
        f"ratio to the peer's best in the same round. {TERMS} terms of the series: drawn by `TRAINING` (2 exact +\n"
        f"Geometric(0.5)) for ours, fixed for the peer. The floor is n + 7 = {units:.0f} times the bare products of\n"
        "one evaluation of g at the same shapes, by our fastest product.\n\n"
        "| flow | what | seconds | peer's best / this | time / floor |\n|---|---|---|---|---|\n"
    )


def table_rows(case: Case, found: dict[str, Timing], ours: list[str], peers: list[str]) -> list[str]:
    """One line a candidate."""
    best = found[_best(found, peers)]
    floor = found["products"].median * products_a_step(TRAINING)
    rows = []
    for name in [*ours, *peers]:
        middle, low, high = best.ratio(found[name])
        seconds = found[name].median
        rows.append(
            f"| {case.name} | {name} | {seconds:.3f} | {middle:.2f} ({low:.2f}–{high:.2f}) | {seconds / floor:.2f} |"
        )
    return rows


def _best(found: dict[str, Timing], names: Iterable[str]) -> str:
    return min(names, key=lambda name: found[name].median)


SPLIT_TEXT = """Shares of a step by the profiler (which itself costs time, most where operations are small), and the
tensor operations a block a step. *Products* are matrix products and convolutions, *elementwise* every other operation,
*update* and *optimiser* all of these two, *Python* what is left: interpreter, dispatch, autograd. Views do not count as
operations.

| flow | what | products | elementwise | update | optimiser | Python | operations a block |
|---|---|---|---|---|---|---|---|
"""

#: Names of operations that multiply matrices.
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "_slow_conv2d", "slow_conv", "convolution_backward")


def split_row(case: Case, name: str, step: Step) -> str:
    """Where the time of a step goes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("whole"):
        step()
    own = Counter[str]()
    for event in profiled.events():
        own[_kind(event)] += event.self_cpu_time_total
    kinds = ["products", "elementwise", "update", "optimiser", "python"]
    cells = [f"{own[kind] / sum(own.values()):.0%}" for kind in kinds]
    counter = _Counter()
    with counter:
        step()
    return f"| {case.name} | {name} | {' | '.join(cells)} | {counter.count / case.count:.0f} |"


def _kind(event: Any) -> str:
    above = event
    while above is not None:
        if above.name.startswith(UPDATE):
            return "update"
        if above.name.startswith("Optimizer.step"):
            return "optimiser"
        above = above.cpu_parent
    if not event.name.startswith("aten::"):
        return "python"
    return "products" if event.name.removeprefix("aten::").startswith(_PRODUCTS) else "elementwise"


class _Counter(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


if __name__ == "__main__":
    main()
