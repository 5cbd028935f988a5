"""The passes through a `LipschitzNetwork` in closed form: transposed products, tangents, and their gradient.

Value and tangents travel as one batch, so that a layer is one product forward, one back and one for its weight.
Derivation: docs/maths/dual-pass-gradient.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from contraflow.numerics import alias

if TYPE_CHECKING:
    from contraflow.lipschitz.activations import Activation
    from contraflow.lipschitz.network import LipschitzNetwork
    from contraflow.lipschitz.soft_normalisation import LipschitzLayer


class Kept(NamedTuple):
    """What a layer keeps of the way forward: φ(s), its input, and φ'(s), φ''(s), where an activation stands before."""

    value: Tensor
    slope: Tensor | None
    curvature: Tensor | None


class Adjoint:
    """u ↦ J_g(x)ᵀu for u ``(probes, rows, *event)``; keeps one block's activation derivatives until it is dropped."""

    def __init__(
        self, net: LipschitzNetwork, gain: Tensor, weights: Sequence[Tensor], slopes: Sequence[Tensor | None]
    ) -> None:
        first, *others = slopes
        folded = [first if first is None else first * gain, *others]
        products = [layer.apply_weight for layer in net.stack()]
        transposed = [layer.transposed(one) for layer, one in zip(net.stack(), weights, strict=True)]
        self._steps = list(zip(products, transposed, folded, strict=True))[::-1]

    def lowered(self, dtype: torch.dtype) -> Adjoint:
        """The same, its products in `dtype`; what goes in and comes out stays as it is."""
        twin = copy.copy(self)
        twin._steps = [
            (product, weight.to(dtype), None if slope is None else slope.to(dtype))
            for product, weight, slope in self._steps
        ]
        return twin

    def __call__(self, u: Tensor) -> Tensor:
        probes, rows = u.shape[:2]
        dtype = u.dtype
        u = u.flatten(0, 1).to(self._steps[0][1].dtype)
        for product, weight, slope in self._steps:
            u = product(weight, u)
            if slope is not None:
                # Most calls have one probe and few rows: every view less counts.
                (u if probes == 1 else _by_probe(u, rows)).mul_(slope if len(slope) == rows else slope[:rows])
        return u.unflatten(0, (probes, rows)).to(dtype)


def kept_gradient(
    net: LipschitzNetwork,
    tensors: Sequence[Tensor],
    kept: Sequence[Tensor],
    x: Tensor,
    grad_gx: Tensor,
    probes: Tensor,
    adjoints: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Of ⟨ḡ, g(x)⟩ + Σ_p ⟨w_p, J v_p⟩ to x and the tensors, from the `Kept` of all layers in one sequence; None where
    it is not wanted."""
    rows, weights = len(x), net.weights(tensors)
    start = net.prepare(torch.cat([x, probes.flatten(0, 1)]))
    t = start[rows:] * tensors[0] if net.preactivation else start[rows:]
    stages = []
    layers = [Kept(*one) for one in zip(kept[::3], kept[1::3], kept[2::3], strict=True)]
    for index, (layer, one) in enumerate(zip(net.stack(), layers, strict=True)):
        curved = None
        if one.slope is not None and one.curvature is not None:
            curved = _by_probe(t, rows) * one.curvature
            _by_probe(t, rows).mul_(one.slope)
        stages.append(_Stage((one.value, t), one.slope, curved))
        t = layer.apply_weight(weights[index], t)
    y = net.prepare(torch.cat([grad_gx, adjoints.flatten(0, 1)]))
    y, grads = _pull_back(net, start, tensors, weights, stages, y, rows, wanted[1:])
    return [y[:rows], *grads]


class DualPass(torch.autograd.Function):
    """g(x) and J_g(x) t for x ``(batch, *event)`` and t ``(probes·batch, *event)``."""

    @staticmethod
    def forward(ctx: Any, net: LipschitzNetwork, x: Tensor, t: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(x)
        start = net.prepare(torch.cat([x, t]))
        weights = net.weights(tensors)
        z = start * tensors[0] if net.preactivation else start
        stages = []
        for index, layer in enumerate(net.stack()):
            stage = _forward_stage(net.activation_before(index), z, rows)
            z = layer.apply_weight(weights[index], stage.inputs[0])
            z[:rows].add_(layer.spread(tensors[3 + 3 * index]))
            stages.append(stage)
        ctx.net, ctx.rows = net, rows
        flat = [one for stage in stages for one in (*stage.inputs, stage.slope, stage.curved)]
        ctx.save_for_backward(x, t, start, *tensors, *weights, *flat)
        return z[:rows], z[rows:]

    @staticmethod
    def backward(ctx: Any, grad_gx: Tensor, grad_products: Tensor) -> tuple[Tensor | None, ...]:
        x, t, start, *saved = ctx.saved_tensors
        depth = len(ctx.net.layers)
        if torch.is_grad_enabled():
            inputs = (x, t, *saved[: 1 + 3 * depth])
            return None, *_twice_differentiable(ctx.net, inputs, (grad_gx, grad_products), ctx.needs_input_grad[1:])
        tensors, weights, flat = saved[: 1 + 3 * depth], saved[1 + 3 * depth : 1 + 4 * depth], saved[1 + 4 * depth :]
        stages = [_Stage((inputs,), *bend) for inputs, *bend in zip(flat[::3], flat[1::3], flat[2::3], strict=True)]
        y = ctx.net.prepare(torch.cat([grad_gx, grad_products]))
        y, grads = _pull_back(ctx.net, start, tensors, weights, stages, y, ctx.rows, ctx.needs_input_grad[3:])
        return None, y[: ctx.rows], y[ctx.rows :], *grads


def _twice_differentiable(
    net: LipschitzNetwork, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of g(x) and J t with a graph of their own, for a backward pass under ``create_graph``."""
    x, t, *tensors = map(alias, inputs)
    start = x if x.requires_grad else x.detach().requires_grad_()
    gx = net.value(tensors, start)
    # J t is the derivative of Jᵀu in u.
    u = torch.zeros_like(gx, requires_grad=True)
    (jtu,) = torch.autograd.grad(gx, start, u, create_graph=True)
    columns = [torch.autograd.grad(jtu, u, one, create_graph=True)[0] for one in t.unflatten(0, (-1, len(x)))]
    asked = [one for one, need in zip((start, t, *tensors), wanted, strict=True) if need]
    outputs = (gx, torch.cat(columns))
    found = iter(torch.autograd.grad(outputs, asked, cotangents, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in wanted]


class _Stage(NamedTuple):
    """What a layer and the activation before it leave for the way back.

    Attributes:
        inputs: φ(s) and φ'(s)·t, which the layer multiplied, in one batch or in two.
        slope: φ'(s) ``(batch, …)``; None without an activation.
        curved: φ''(s)·t ``(probes, batch, …)``.
    """

    inputs: tuple[Tensor, ...]
    slope: Tensor | None
    curved: Tensor | None


def _forward_stage(activation: Activation | None, z: Tensor, rows: int) -> _Stage:
    """[s; t] ↦ [φ(s); φ'(s)·t]; z is used up where there is an activation."""
    if activation is None:
        return _Stage((z,), None, None)
    inputs = torch.empty_like(z)
    slope, curvature = activation.core_with_curvature(z[:rows], inputs[:rows])
    tangents = _by_probe(z[rows:], rows)
    torch.mul(tangents, slope, out=_by_probe(inputs[rows:], rows))
    return _Stage((inputs,), slope, tangents.mul_(curvature))


def _pull_back(
    net: LipschitzNetwork,
    start: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    stages: Sequence[_Stage],
    y: Tensor,
    rows: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Cotangents y = [ḡ; w] of g(x) and J t back to [x; t], and to the tensors where they are wanted."""
    grads: list[Tensor | None] = []
    for index, layer in reversed(list(enumerate(net.stack()))):
        of_weight, of_scale, of_bias = wanted[1 + 3 * index : 4 + 3 * index]
        weight, scale = tensors[1 + 3 * index : 3 + 3 * index]
        grads.append(layer.spread_gradient(y[:rows]) if of_bias else None)
        scaled = _weight_gradient(layer, stages[index].inputs, y) if of_weight or of_scale else None
        grads.append((scaled * weight).sum() if scaled is not None and of_scale else None)
        grads.append(scaled * scale if scaled is not None and of_weight else None)
        y = layer.apply_adjoint(weights[index], y)
        _backward_stage(stages[index], y, rows)
    if not net.preactivation:
        return y, [None, *reversed(grads)]
    grad_gain = (y * start).sum() if wanted[0] else None
    return y * tensors[0], [grad_gain, *reversed(grads)]


def _weight_gradient(layer: LipschitzLayer, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    cotangents = y.split([len(one) for one in inputs])
    first, *others = (layer.weight_gradient(*pair) for pair in zip(inputs, cotangents, strict=True))
    return sum(others, start=first)


def _backward_stage(stage: _Stage, y: Tensor, rows: int) -> None:
    """[ā; t̄] ↦ [φ'·ā + Σ_p φ''·t_p·t̄_p; φ'·t̄], in place."""
    if stage.slope is None or stage.curved is None:
        return
    value, tangents = y[:rows].mul_(stage.slope), _by_probe(y[rows:], rows)
    for curved, tangent in zip(stage.curved, tangents, strict=True):
        value.addcmul_(curved, tangent)
    tangents.mul_(stage.slope)


def _by_probe(t: Tensor, rows: int) -> Tensor:
    """``(probes·rows, …)`` as ``(probes, rows, …)``, a view; as it is where there is one probe."""
    return t.unflatten(0, (-1, rows)) if len(t) != rows else t[None]
