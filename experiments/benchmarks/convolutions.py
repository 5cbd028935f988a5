"""Convolutions with few input or output channels, torch's and ours: docs/decisions/001.

    python -m experiments.benchmarks.convolutions [--device cuda]

prints its table.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from contraflow.lipschitz.convolution import channels_last, convolve, convolve_adjoint, kernel_gradient
from experiments.benchmarks.timing import Step, alternate, hardware

#: Rows, channels of the data, channels inside g, pixels a side.
SHAPES = [(64, 1, 64, 28), (16, 1, 512, 28), (16, 3, 128, 32), (16, 4, 512, 14), (16, 12, 128, 16), (16, 16, 512, 7)]


@torch.no_grad()
def main() -> None:
    """Print milliseconds, torch / ours, of all products of the first (thin → wide) and last layer of a block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    print(f"{hardware()}; milliseconds, torch / ours, medians of 15 alternating calls\n")
    columns = [f"{op}, {way}" for way in ("thin → wide", "wide → thin") for op in ("forward", "adjoint", "kernel")]
    print(f"| rows, channels, pixels | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for rows, thin, wide, pixels in SHAPES:
        cells = [cell for way in ((thin, wide), (wide, thin)) for cell in compare(rows, *way, pixels, device)]
        print(f"| {rows}, {thin} and {wide}, {pixels}×{pixels} | {' | '.join(cells)} |", flush=True)


def compare(rows: int, inputs: int, outputs: int, pixels: int, device: str = "cpu") -> list[str]:
    """`torch / ours` for forward pass, adjoint and kernel gradient, all in channels-last memory."""
    x = channels_last(torch.randn(rows, inputs, pixels, pixels, device=device))
    y = channels_last(torch.randn(rows, outputs, pixels, pixels, device=device))
    weight = torch.randn(outputs, inputs, 3, 3, device=device)
    pairs: list[tuple[Step, Step]] = [
        (lambda: F.conv2d(x, weight, padding=1), lambda: convolve(x, weight)),
        (lambda: F.conv_transpose2d(y, weight, padding=1), lambda: convolve_adjoint(y, weight)),
        (lambda: torch.nn.grad.conv2d_weight(x, weight.shape, y, padding=1), lambda: kernel_gradient(x, y, 3)),
    ]
    cells = []
    for library, ours in pairs:
        timings = alternate({"library": library, "ours": ours}, rounds=15)
        cells.append(f"{1e3 * timings['library'].median:.2f} / {1e3 * timings['ours'].median:.2f}")
    return cells


if __name__ == "__main__":
    main()
