"""Timings side by side: the candidates take turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from contraflow.runs import compare_page

#: One call is one step, evaluation or the like; what it returns is not looked at.
Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, other: Timing) -> tuple[float, float, float]:
        """Median, and first and last quartile, of this one's seconds over the other's in the same round."""
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def alternate(candidates: Mapping[str, Step], rounds: int, warm_up: int = 2) -> dict[str, Timing]:
    """Seconds of every candidate in `rounds` rounds, after some that do not count."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warm_up, rounds):
        for name, step in candidates.items():
            seconds = timed(step)
            if turn >= 0:
                found[name].append(seconds)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def timed(step: Step) -> float:
    """Seconds of one call: of the processor where one thread runs, which other processes hardly disturb, else of the
    wall clock, the device's work included."""
    clock = time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter
    synchronise()
    start = clock()
    step()
    synchronise()
    return clock() - start


def synchronise() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_throughput(device: str) -> float:
    """Floating-point operations a second of a large float32 product under the present settings: the best of five."""
    size = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device)
    torch.mm(a, b)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b)) for _ in range(5))


def lowers_cheaply(device: str) -> bool:
    """Whether bfloat16 products have units of their own: on GPUs, and on processors that say so."""
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return device == "cuda" or "avx512_bf16" in words or "amx_bf16" in words


def hardware() -> str:
    """Processor, threads and versions, for the head of a page."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{name}, {torch.get_num_threads()} thread(s); torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """The processor's name and whether it has AVX-512."""
    wide = " (AVX-512)" if torch.backends.cpu.get_cpu_capability() == "AVX512" else ""
    return compare_page.processor() + wide
