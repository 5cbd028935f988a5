"""Time of a training step compared with the peer's and with its matrix products, and its breakdown.

    python -m experiments.benchmarks.step
    python -m experiments.benchmarks.step --device cuda --cases table image-512 mnist cifar10 --rounds 3 [--tf32]

Writes the sections `step` and `split` of docs/generated/benchmarks.md, or `cuda step` and `cuda split`, or both with
`tf32`.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from contraflow.logdet import TRAINING, Exact
from experiments.benchmarks.cases import CASES, TERMS, UPDATE, Case, bare_products, our_step, peer_step, products_a_step
from experiments.benchmarks.pages import BENCHMARKS, fill, on
from experiments.benchmarks.timing import (
    Step,
    Timing,
    alternate,
    hardware,
    lowers_cheaply,
    peak_throughput,
    synchronise,
)

#: Largest number of blocks that are profiled on a GPU, where a profile of more blocks takes minutes.
PROFILED_BLOCKS = 12


def main(given: Sequence[str] | None = None) -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="number of steps of each candidate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES)[:4], help="flows to measure")
    parser.add_argument("--tf32", action="store_true", help="float32 products in TF32, ours and the peer's")
    parser.add_argument("--compiled", action="store_true", help="our step also under torch.compile")
    parser.add_argument("--page", type=Path, default=BENCHMARKS, help="the page to fill")
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.tf32
    options = " --device cuda" * (arguments.device == "cuda") + " --tf32" * arguments.tf32
    products = "TF32" if arguments.tf32 else "float32"
    head = f"`python -m experiments.benchmarks.step{options}`: {products} products on {hardware()}"
    rows, parts = measure([CASES[name] for name in arguments.cases], arguments)
    after = " tf32" if arguments.tf32 else ""
    fill(arguments.page, on(arguments.device, f"step{after}"), step_text(arguments.rounds, head) + "\n".join(rows))
    fill(arguments.page, on(arguments.device, f"split{after}"), SPLIT_TEXT + "\n".join(parts))


def measure(cases: Sequence[Case], arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The lines of both tables."""
    rows: list[str] = []
    parts: list[str] = []
    top = peak_throughput(arguments.device)
    for case in cases:
        ours, peers = candidates(case, arguments.device, compiled=arguments.compiled)
        floor = bare_products(case.ours(TRAINING).to(arguments.device), case.data(arguments.device))
        gc.collect()
        gc.freeze()  # otherwise the garbage collector repeatedly visits all modules
        found = alternate({**ours, **peers, "products": floor}, arguments.rounds)
        best = _best(found, peers)
        rows += table_rows(case, found, list(ours), list(peers), flops(ours | peers), top)
        deep = arguments.device == "cuda" and case.count > PROFILED_BLOCKS
        shown = [name for name in (*ours, best) if "compiled" not in name and not deep]
        parts += [split_row(case, name, (ours | peers)[name], arguments.device) for name in shown]
        print("\n".join(rows + parts), flush=True)
    return rows, parts


def candidates(case: Case, device: str, *, compiled: bool) -> tuple[dict[str, Step], dict[str, Step]]:
    """Our gradient methods and the peer's."""
    x = case.data(device)
    ours = {f"contraflow, {route}": our_step(case.ours(TRAINING, route).to(device), x) for route in ("dual", "kept")}
    if lowers_cheaply(device):
        lowered = replace(TRAINING, series_dtype=torch.bfloat16)
        ours["contraflow, kept, bfloat16 series"] = our_step(case.ours(lowered, "kept").to(device), x)
    if compiled:
        ours["contraflow, kept, compiled"] = our_step(case.ours(TRAINING, "kept").to(device), x, compiled=True)
    schemes = ["neumann", "neumann + backward in forward"]
    if case.event_shape == (2,):
        ours["contraflow, exact, kept"] = our_step(case.ours(Exact(), "kept").to(device), x)
        schemes.append("exact (2-D)")
    return ours, {f"normflows, {scheme}": peer_step(case.peer(scheme).to(device), x) for scheme in schemes}


def step_text(rounds: int, head: str) -> str:
    """The beginning of the first section."""
    units = products_a_step(TRAINING)
    return (
        f"{head}. Zero gradients, Lipschitz update, forward, backward,\n"
        f"fused AdamW; medians of {rounds} steps in turns, seconds, and median and quartiles of the\n"
        f"ratio to the peer's best in the same round. {TERMS} terms of the series: drawn by `TRAINING` (2 exact +\n"
        f"Geometric(0.5)) for ours, fixed for the peer. The floor is n + 7 = {units:.0f} times the bare products of\n"
        "one evaluation of g at the same shapes, by our fastest product. Throughput: floating-point operations of\n"
        "products a second, over those of one large product. Seconds are the processor's on one thread without a GPU,\n"
        "else the clock's.\n\n"
        "| flow | what | seconds | peer's best / this | time / floor | throughput |\n|---|---|---|---|---|---|\n"
    )


def flops(steps: dict[str, Step]) -> dict[str, int]:
    """Floating-point operations of all products of a step; of a compiled one they cannot be counted."""
    counted = {}
    for name, step in steps.items():
        if "compiled" not in name:
            with _Counter() as counter:
                step()
            counted[name] = counter.flops
    return counted


def table_rows(
    case: Case, found: dict[str, Timing], ours: list[str], peers: list[str], counted: dict[str, int], top: float
) -> list[str]:
    """One line a candidate."""
    best = found[_best(found, peers)]
    floor = found["products"].median * products_a_step(TRAINING)
    rows = []
    for name in [*ours, *peers]:
        middle, low, high = best.ratio(found[name])
        seconds = found[name].median
        share = f"{counted[name] / seconds / top:.0%}" if name in counted else "–"
        ratio = f"{middle:.2f} ({low:.2f}–{high:.2f})"
        rows.append(f"| {case.name} | {name} | {seconds:.3f} | {ratio} | {seconds / floor:.2f} | {share} |")
    return rows


def _best(found: dict[str, Timing], names: Iterable[str]) -> str:
    return min(names, key=lambda name: found[name].median)


SPLIT_TEXT = """Shares of a step by the profiler (which itself costs time, most where operations are small), and the
tensor operations a block a step. *Products* are matrix products and convolutions, *elementwise* every other operation,
*update* and *optimiser* all of these two, *Python* what is left: interpreter, dispatch, autograd; on a GPU the time in
which it has nothing to do. Views do not count as operations.

| flow | what | products | elementwise | update | optimiser | Python | operations a block |
|---|---|---|---|---|---|---|---|
"""

_KINDS = ["products", "elementwise", "update", "optimiser", "python"]

#: Names of operations that multiply matrices.
_PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "mkldnn_convolution",
    "cudnn_convolution",
    "_slow_conv2d",
    "slow_conv",
    "convolution_backward",
)


def split_row(case: Case, name: str, step: Step, device: str) -> str:
    """Where the time of a step goes."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    start = time.perf_counter()
    with profile(activities=activities) as profiled, record_function("whole"):
        step()
        synchronise()
    elapsed = 1e6 * (time.perf_counter() - start)
    own = Counter[str]()
    for event in profiled.events():
        own[_kind(event)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    if on_gpu:
        own["python"] = max(0, elapsed - sum(own[kind] for kind in _KINDS[:-1]))
    cells = [f"{own[kind] / sum(own.values()):.0%}" for kind in _KINDS]
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
    """Counts operations that are no views, and the floating-point operations of products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


if __name__ == "__main__":
    main()
