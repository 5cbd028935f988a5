"""Convolutions with one channel on a side: library convolution against patches times kernel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from contraflow.lipschitz.convolution import convolve, convolve_adjoint


def median_ms(function: Callable[[], object], runs: int = 20) -> float:
    """Median wall-clock milliseconds of a call, after two to warm up."""
    function(), function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


@torch.no_grad()
def main() -> None:
    """Print the table of docs/decisions/001-single-channel-convolutions.md."""
    thin, wide = torch.randn(64, 1, 28, 28), torch.randn(64, 64, 28, 28)
    wide = wide.contiguous(memory_format=torch.channels_last)
    kernel_in, kernel_out = torch.randn(64, 1, 3, 3), torch.randn(1, 64, 3, 3)
    rows = {
        "1 → 64": (lambda: F.conv2d(thin, kernel_in, padding=1), lambda: convolve(thin, kernel_in)),
        "adjoint, 64 → 1": (
            lambda: F.conv_transpose2d(wide, kernel_in, padding=1),
            lambda: convolve_adjoint(wide, kernel_in),
        ),
        "64 → 1": (lambda: F.conv2d(wide, kernel_out, padding=1), lambda: convolve(wide, kernel_out)),
        "adjoint, 1 → 64": (
            lambda: F.conv_transpose2d(thin, kernel_out, padding=1),
            lambda: convolve_adjoint(thin, kernel_out),
        ),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds, median of 20")
    for name, (library, product) in rows.items():
        print(f"{name:18s} library {median_ms(library):6.2f}   product {median_ms(product):6.2f}")


if __name__ == "__main__":
    main()
