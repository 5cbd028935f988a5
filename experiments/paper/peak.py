"""The exact memory of the tensors that a call allocates, from the profiler's allocations and releases."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def allocations(call: Callable[[], object], device: str = "cpu") -> list[int]:
    """Bytes allocated (> 0) and released (< 0) on a device, in temporal order.

    Not included are releases of memory that was allocated before the call, and memory that a library allocates without
    torch's allocator, such as scratch memory of oneDNN on the CPU.
    """
    kind = DeviceType.CUDA if torch.device(device).type == "cuda" else DeviceType.CPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    assert record.profiler is not None
    events = record.profiler.kineto_results.events()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == kind
    ]
    record.profiler = None  # Megabytes in a reference cycle, which the garbage collector would free late.
    return [size for _, size in sorted(changes, key=itemgetter(0))]


def peak(changes: Iterable[int]) -> int:
    """The largest partial sum of changes: the peak in bytes above the initial memory."""
    return max(itertools.accumulate(changes, initial=0))


def held(flow: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and optimiser state."""
    state = [value for values in optimiser.state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*flow.parameters(), *flow.buffers(), *state))


@dataclass(frozen=True)
class Peak:
    """Peak memory of a training step in bytes: of all tensors, and of those with one row for each sample."""

    total: int
    activations: int


def step_peak(flow: Any, x: Tensor, device: str) -> Peak:
    """Peak memory of one training step, including weights and optimiser state.

    Args:
        flow: a module with `log_prob`.
        x: a batch whose number of rows has a prime factor that no other size has, such as five: a tensor has one row
            for each sample if and only if this factor divides its size in bytes.
        device: of flow and x, cpu or cuda.
    """
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)
    for parameter in flow.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()  # creates the optimiser's state
    optimiser.zero_grad()

    def step() -> None:
        (-flow.log_prob(x).mean()).backward()
        optimiser.step()

    gc.collect()
    changes = allocations(step, device)
    optimiser.zero_grad()
    return Peak(held(flow, optimiser) + peak(changes), peak(size for size in changes if size % len(x) == 0))
