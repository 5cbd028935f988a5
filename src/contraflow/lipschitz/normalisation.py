"""The Lipschitz update: once a step, for the whole flow."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from contraflow.lipschitz.layers import LipschitzLayer, LipschitzLinear
from contraflow.lipschitz.network import LipschitzNetwork
from contraflow.lipschitz.operator_norms import SpectralNorm
from contraflow.numerics import power_iteration


def update_lipschitz(module: nn.Module, *, tolerance: float = 1e-4, max_iterations: int = 50) -> None:
    """Refresh v of every bounded layer by warm-started power iteration and normalise all weights.

    Call it before the forward pass of a training step. Dense layers of equal shape under the spectral norm run as one
    batch of products. All passes of the step share the normalised weights and their graph, so add losses up before one
    backward pass, or run forward and backward in turn.

    Args:
        module: a flow or any module with bounded layers inside.
        tolerance: relative change of σ at which the iteration stops; a layer that was never used before starts with
            a thorough iteration instead.
        max_iterations: most iterations a call.
    """
    stacks: dict[tuple, list[LipschitzLayer]] = defaultdict(list)
    for layer in _layers(module):
        if not layer.warm:
            layer.converge()
        elif isinstance(layer, LipschitzLinear) and isinstance(layer.norm, SpectralNorm):
            stacks[(*layer.weight.shape, layer.weight.dtype, layer.weight.device)].append(layer)
        else:
            layer.refresh(tolerance, max_iterations)
    for stack in stacks.values():
        _update_stack(stack, tolerance, max_iterations)


def _update_stack(layers: list[LipschitzLayer], tolerance: float, max_iterations: int) -> None:
    """Power iteration and normalisation of dense layers of equal shape, with one product for all."""
    weights = torch.stack([layer.weight for layer in layers])
    fixed = weights.detach()
    found = power_iteration(
        lambda v: (fixed @ v[:, :, None])[:, :, 0],
        lambda u: (u[:, None, :] @ fixed)[:, 0, :],
        torch.cat([layer.v for layer in layers]),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    for layer, v in zip(layers, found.v, strict=True):
        layer.accept(v[None])
    bounds = fixed.new_tensor([layer.bound for layer in layers])
    sigma = (weights @ found.v[:, :, None])[:, :, 0].norm(dim=1)
    normalised = weights / (sigma / bounds).clamp_min(1)[:, None, None]
    sharing = [layer.cache for layer in layers]
    for layer, weight in zip(layers, normalised.unbind(), strict=True):
        layer.remember(weight, sharing)


@torch.no_grad()
def largest_estimate(module: nn.Module) -> float:
    """The largest of the blocks' Lipschitz estimates Π min(σ_l, c) Π Lip(φ_l), from below; 0 without any block."""
    networks = [one for one in module.modules() if isinstance(one, LipschitzNetwork)]
    return max((one.lipschitz_estimate() for one in networks), default=0.0)


def _layers(module: nn.Module) -> list[LipschitzLayer]:
    return [one for one in module.modules() if isinstance(one, LipschitzLayer)]
