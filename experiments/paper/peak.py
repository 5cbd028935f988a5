"""Bytes of the tensors that a call allocates, exactly, as the profiler reports every allocation and release."""

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
    """Bytes allocated (> 0) and released (< 0) on a device, in order of time.

    A release of what was allocated before the call is not seen. Memory that a library takes without torch's allocator,
    such as oneDNN's scratch on the CPU, is not either.
    """
    kind = DeviceType.CUDA if torch.device(device).type == "cuda" else DeviceType.CPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    assert record.profiler is not None
    events = record.profiler.kineto_results.events()
    found = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == kind
    ]
    record.profiler = None  # megabytes, in a cycle of references that the collector would leave for long
    return [size for _, size in sorted(found, key=itemgetter(0))]


def peak(changes: Iterable[int]) -> int:
    """The largest sum of the first changes: bytes above what was there at the start."""
    return max(itertools.accumulate(changes, initial=0))


def held(flow: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and the optimiser's state."""
    state = [one for values in optimiser.state.values() for one in values.values() if isinstance(one, torch.Tensor)]
    return sum(one.numel() * one.element_size() for one in (*flow.parameters(), *flow.buffers(), *state))


@dataclass(frozen=True)
class Peak:
    """Largest sum of bytes in a training step: of all tensors, and of those that have a row for every sample."""

    total: int
    activations: int


def step_peak(flow: Any, x: Tensor, device: str) -> Peak:
    """Of one step, everything that lasts from step to step included.

    Args:
        flow: a module with `log_prob`.
        x: a batch whose number of rows has a prime factor that no other size has, five, say: a tensor has a row for
            every sample if and only if that factor divides its bytes.
        device: cpu or cuda, where both are.
    """
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)
    for parameter in flow.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()  # so that its state is there
    optimiser.zero_grad()

    def step() -> None:
        (-flow.log_prob(x).mean()).backward()
        optimiser.step()

    gc.collect()
    changes = allocations(step, device)
    optimiser.zero_grad()
    return Peak(held(flow, optimiser) + peak(changes), peak(one for one in changes if one % len(x) == 0))
