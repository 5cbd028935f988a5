"""Timings of several candidates in turns, so that disturbances affect all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from contraflow.runs import compare_page

#: A call to time, such as a training step; its result is ignored.
Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, other: Timing) -> tuple[float, float, float]:
        """Median, first and last quartile of the ratio of these seconds to the other's in the same round."""
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def alternate(candidates: Mapping[str, Step], rounds: int, warm_up: int = 2) -> dict[str, Timing]:
    """Seconds of each candidate in `rounds` rounds, after warm-up rounds."""
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warm_up, rounds):
        for name, step in candidates.items():
            seconds = timed(step)
            if turn >= 0:
                measured[name].append(seconds)
    return {name: Timing(tuple(seconds)) for name, seconds in measured.items()}


def timed(step: Step) -> float:
    """Seconds of one call: processor time with a single thread, which hardly depends on other processes; otherwise
    wall-clock time, including the work of a GPU."""
    clock = time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter
    synchronise()
    start = clock()
    step()
    synchronise()
    return clock() - start


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_throughput(device: str) -> float:
    """Floating-point operations per second of a large float32 product with the current settings; the best of five."""
    size = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device)
    torch.mm(a, b)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b)) for _ in range(5))


def lowers_cheaply(device: str) -> bool:
    """Whether the hardware has units for bfloat16 products: GPUs, and processors with the instruction sets."""
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return device == "cuda" or "avx512_bf16" in words or "amx_bf16" in words


def hardware() -> str:
    """Processor, threads and versions, for the head of a page."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{name}, {torch.get_num_threads()} thread(s); torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """Name of the processor, and whether it has AVX-512."""
    wide = " (AVX-512)" if torch.backends.cpu.get_cpu_capability() == "AVX512" else ""
    return compare_page.processor() + wide
