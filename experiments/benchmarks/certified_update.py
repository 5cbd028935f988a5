"""Cost of certified Lipschitz updates, and excess of updates by estimates: docs/decisions/003-certified-training.md.

    python -m experiments.benchmarks.certified_update [--steps 40] [--rate 1e-3]

Processor time of training steps of a flow (2-2-2 blocks, hidden 64) on scikit-learn's digits, resized to 28×28.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from contraflow import Flow, residual_flow_images, update_lipschitz
from contraflow.lipschitz import LipschitzLayer
from contraflow.preprocessing import ImagePreprocessing


def digits_at_28() -> Tensor:
    """Grey levels ``(1797, 1, 28, 28)``."""
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16 * 255
    return torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear").round().long()


def layers(flow: Flow) -> list[LipschitzLayer]:
    """All Lipschitz layers."""
    return [module for module in flow.modules() if isinstance(module, LipschitzLayer)]


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Train with certified updates; at each step a copy is updated by estimates alone, from the same weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data, generator = digits_at_28(), torch.Generator().manual_seed(0)
    flow = residual_flow_images(
        (1, 28, 28), blocks=(2, 2, 2), hidden=64, dense_hidden=64, preprocessing=ImagePreprocessing(256, None, 1e-6)
    )
    update_lipschitz(flow)
    twin = copy.deepcopy(flow)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=options.rate, betas=(0.9, 0.99), fused=True)
    plain, certified, rest, drift, over, worst = [], [], [], [], 0, 0.0
    for _ in range(options.steps):
        before = [one.weight.detach().clone() for one in layers(flow)]

        def step() -> None:
            # One step of Adam from the current normalised weights.
            rows = torch.randint(0, len(data), (64,), generator=generator)
            loss = -flow.log_prob(data[rows], generator=generator).mean() / flow.dimensions
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimiser.step()

        certified.append(seconds(lambda: update_lipschitz(flow, certified=True)))
        rest.append(seconds(step))
        with torch.no_grad():
            for ours, theirs in zip(flow.parameters(), twin.parameters(), strict=True):
                theirs.copy_(ours)
        plain.append(seconds(lambda: update_lipschitz(twin)))
        bounds = [one.bound / layer.bound for one, layer in zip(_certificates(twin), layers(twin), strict=True)]
        over += sum(bound > 1.001 for bound in bounds)
        worst = max(worst, *bounds)
        moved = [(one.weight - old).norm().item() for one, old in zip(layers(flow), before, strict=True)]
        drift.append(statistics.median(moved))
    step_time = statistics.median(rest)
    old, new = statistics.mean(plain), statistics.mean(certified)
    print(f"torch {torch.__version__}, {options.steps} steps at {options.rate:g}, one thread, processor time")
    print(f"update {old * 1e3:.0f} ms, certified {new * 1e3:.0f} ms, rest of the step {step_time * 1e3:.0f} ms")
    print(f"certification adds {(new - old) / (step_time + old):.1%}")
    print(f"median Frobenius norm of a layer's step {statistics.median(drift):.4f}")
    total = options.steps * len(layers(flow))
    print(f"updates by estimates: {over} of {total} layers more than 0.1 % over, the worst at {worst:.3f} c")


def _certificates(flow: Flow) -> list:
    return [layer for block in flow.certify().blocks for layer in block.layers]


if __name__ == "__main__":
    main()
