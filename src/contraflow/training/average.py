"""The Polyak average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzLayer, rescale_to_certificate, update_lipschitz


class PolyakAverage:
    r"""θ̄ ← d·θ̄ + (1 - d)·θ after every step, with d = min(decay, (1 + t)/(10 + t)).

    The rising start keeps the random initial weights out of short runs. Polyak and Juditsky, Acceleration of
    stochastic approximation by averaging, 1992.

    Args:
        flow: whose parameters are averaged.
        decay: the final d; the paper uses 0.999.
    """

    def __init__(self, flow: Flow, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {name: one.detach().clone() for name, one in flow.named_parameters()}

    @torch.no_grad()
    def update(self, flow: Flow, step: int) -> None:
        """Take in the parameters after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, current = [], []
        for name, one in flow.named_parameters():
            averages.append(self.weights[name])
            current.append(one.detach())
        torch._foreach_lerp_(averages, current, 1 - decay)


@torch.no_grad()
def with_weights(flow: Flow, weights: dict[str, Tensor], *, certified: bool = True) -> Flow:
    """A copy of the flow with other parameters, to evaluate and sample with.

    Its power iterations are converged anew.

    Args:
        flow: which is left as it is.
        weights: a tensor for every parameter.
        certified: scale down layers whose certified norm is above their bound, `rescale_to_certificate`: an average
            of weights has no bound of its own. Without it norms are estimates, as in training and in the paper.
    """
    twin = copy.deepcopy(flow)
    for name, parameter in twin.named_parameters():
        parameter.copy_(weights[name])
    for module in twin.modules():
        if isinstance(module, LipschitzLayer):
            module.warm = False
    update_lipschitz(twin)
    if certified:
        rescale_to_certificate(twin)
    return twin.requires_grad_(False)
