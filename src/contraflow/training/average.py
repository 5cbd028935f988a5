"""The Polyak average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzLayer, rescale_to_certificate, update_lipschitz


class PolyakAverage:
    r"""θ̄ ← d·θ̄ + (1 - d)·θ after every step, with d = min(decay, (1 + t)/(10 + t)).

    The decay starts small, so that the random initial weights count little in short runs. Polyak and Juditsky,
    Acceleration of stochastic approximation by averaging, 1992.

    Args:
        flow: the flow whose parameters are averaged.
        decay: the largest d; the paper uses 0.999.
    """

    def __init__(self, flow: Flow, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in flow.named_parameters()}

    @torch.no_grad()
    def update(self, flow: Flow, step: int) -> None:
        """Add the parameters after `step` steps to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, current = [], []
        for name, parameter in flow.named_parameters():
            averages.append(self.weights[name])
            current.append(parameter.detach())
        torch._foreach_lerp_(averages, current, 1 - decay)


@torch.no_grad()
def with_weights(flow: Flow, weights: dict[str, Tensor], *, certified: bool = True) -> Flow:
    """A copy of the flow with other parameters, for evaluation and sampling.

    The power iterations are run to convergence again.

    Args:
        flow: the flow, which stays as it is.
        weights: a tensor for every parameter.
        certified: scale layers whose certified norm exceeds their bound down to it, since an average of weights need
            not keep the bounds; otherwise norms are estimates, as in training and in the paper.
    """
    copied = copy.deepcopy(flow)
    for name, parameter in copied.named_parameters():
        parameter.copy_(weights[name])
    for module in copied.modules():
        if isinstance(module, LipschitzLayer):
            module.warm = False
    update_lipschitz(copied)
    if certified:
        rescale_to_certificate(copied)
    return copied.requires_grad_(False)
