"""The passes through a `LipschitzNetwork` in closed form: transposed products, tangents, and their gradient.

Value and tangents travel as one batch, so that a layer is one product forward, one back and one for its weight.
Derivation: docs/maths/dual-pass-gradient.md.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contraflow.lipschitz.activations import (
    Activation,
    repeated_gain,
    repeated_units,
    summed_features,
    widened_like,
)
from contraflow.lipschitz.composition import Composition, NetworkTensors, Step, grouped
from contraflow.lipschitz.soft_normalisation import LipschitzLayer
from contraflow.numerics import Vjp, alias


class Kept(NamedTuple):
    """What a layer keeps of the way forward: φ(s), its input, and φ'(s), φ''(s), where an activation stands before."""

    value: Tensor
    slope: Tensor | None
    curvature: Tensor | None


class Adjoint(Vjp):
    """u ↦ J_g(x)ᵀu for u ``(probes, rows, *event)``; keeps one block's activation derivatives until it is dropped."""

    def __init__(self, gain: Tensor, steps: Sequence[Step], slopes: Sequence[Tensor | None]) -> None:
        factors = [1 if step.activation is None else step.activation.width_factor for step in steps]
        first, *others = slopes
        folded = [first if first is None else first * repeated_gain(gain, factors[0]), *others]
        self._steps = [
            (step.layer.apply_weight, step.layer.transposed(step.weight), slope, factor)
            for step, slope, factor in zip(steps, folded, factors, strict=True)
        ][::-1]

    def lowered(self, dtype: torch.dtype) -> Adjoint:
        twin = copy.copy(self)
        twin._steps = [
            (product, weight.to(dtype), None if slope is None else slope.to(dtype), factor)
            for product, weight, slope, factor in self._steps
        ]
        return twin

    def __call__(self, u: Tensor) -> Tensor:
        probes, rows = u.shape[:2]
        dtype = u.dtype
        u = u.flatten(0, 1).to(self._steps[0][1].dtype)
        for product, weight, slope, factor in self._steps:
            u = product(weight, u)
            if slope is not None:
                # Most calls have one probe and few rows: every view less counts.
                (u if probes == 1 else _by_probe(u, rows)).mul_(slope if len(slope) == rows else slope[:rows])
                if factor > 1:
                    u = summed_features(u, factor)
        return u.unflatten(0, (probes, rows)).to(dtype)


def function(net: Composition, flat: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """x ↦ g(x), the weights scaled once for many calls."""
    tensors = NetworkTensors.named(flat)
    steps = net.steps(tensors, tensors.scaled_weights())

    def g(x: Tensor) -> Tensor:
        h = net.begin(tensors.gain, x)
        for layer, activation, weight, bias in steps:
            h = h if activation is None else activation.core(h)
            h = layer.affine(weight, bias, h)
        return h

    return g


def linearize(net: Composition, flat: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Adjoint]:
    """g(x) and u ↦ J_g(x)ᵀu."""
    tensors = NetworkTensors.named(flat)
    h, steps = net.begin(tensors.gain, x), net.steps(tensors, tensors.scaled_weights())
    slopes: list[Tensor | None] = []
    for layer, activation, weight, bias in steps:
        slope = None
        if activation is not None:
            h, slope = activation.core_with_slope(h)
        slopes.append(slope)
        h = layer.affine(weight, bias, h)
    return h, Adjoint(tensors.gain, steps, slopes)


def linearize_kept(
    net: Composition, flat: Sequence[Tensor], x: Tensor
) -> tuple[Tensor, Adjoint, tuple[Tensor | None, ...]]:
    """The same, and the `Kept` of all layers in one sequence: with it `kept_gradient` computes no activation again."""
    tensors = NetworkTensors.named(flat)
    h, steps = net.begin(tensors.gain, x), net.steps(tensors, tensors.scaled_weights())
    kept = []
    for layer, activation, weight, bias in steps:
        if activation is None:
            kept.append(Kept(h, None, None))
        else:
            value = widened_like(h, activation.width_factor)
            kept.append(Kept(value, *activation.core_with_curvature(h, value)))
        h = layer.affine(weight, bias, kept[-1].value)
    return h, Adjoint(tensors.gain, steps, [stage.slope for stage in kept]), tuple(itertools.chain.from_iterable(kept))


def kept_gradient(
    net: Composition,
    flat: Sequence[Tensor],
    kept: Sequence[Tensor | None],
    x: Tensor,
    grad_gx: Tensor,
    probes: Tensor,
    adjoints: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Of ⟨ḡ, g(x)⟩ + Σ_p ⟨w_p, J v_p⟩ to x and the tensors, from what `linearize_kept` kept; None where it is not
    wanted."""
    rows, tensors = len(x), NetworkTensors.named(flat)
    weights = tensors.scaled_weights()
    start = net.prepare(torch.cat([x, probes.flatten(0, 1)]))
    t = start[rows:] if net.activations[0] is None else start[rows:] * tensors.gain
    stages = []
    for activation, layer, weight, stage in zip(net.activations, net.layers, weights, grouped(Kept, kept), strict=True):
        curved = None
        if activation is not None:
            t = repeated_units(t, activation.width_factor)
            curved = _by_probe(t, rows) * stage.curvature
            _by_probe(t, rows).mul_(stage.slope)
        stages.append(_Stage((stage.value, t), stage.slope, curved))
        t = layer.apply_weight(weight, t)
    y = net.prepare(torch.cat([grad_gx, adjoints.flatten(0, 1)]))
    y, grads = _pull_back(net, start, tensors, weights, stages, y, rows, wanted[1:])
    return [y[:rows], *grads]


class DualPass(torch.autograd.Function):
    """g(x) and J_g(x) t for x ``(batch, *event)`` and t ``(probes·batch, *event)``."""

    @staticmethod
    def forward(ctx: Any, net: Composition, x: Tensor, t: Tensor, *flat: Tensor) -> tuple[Tensor, Tensor]:
        rows, tensors = len(x), NetworkTensors.named(flat)
        start, weights = net.prepare(torch.cat([x, t])), tensors.scaled_weights()
        z = start if net.activations[0] is None else start * tensors.gain
        stages = []
        for layer, activation, weight, bias in net.steps(tensors, weights):
            stage = _forward_stage(activation, z, rows)
            z = layer.apply_weight(weight, stage.inputs[0])
            z[:rows].add_(layer.spread(bias))
            stages.append(stage)
        ctx.net, ctx.rows, ctx.count = net, rows, len(flat)
        kept = [tensor for stage in stages for tensor in (*stage.inputs, stage.slope, stage.curved)]
        ctx.save_for_backward(x, t, start, *flat, *weights, *kept)
        return z[:rows], z[rows:]

    @staticmethod
    def backward(ctx: Any, grad_gx: Tensor, grad_products: Tensor) -> tuple[Tensor | None, ...]:
        x, t, start, *saved = ctx.saved_tensors
        net, flat, rest = ctx.net, saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            cotangents = grad_gx, grad_products
            return None, *_twice_differentiable(net, (x, t, *flat), cotangents, ctx.needs_input_grad[1:])
        depth = len(net.layers)
        weights, kept = rest[:depth], rest[depth:]
        stages = [_Stage((inputs,), *bend) for inputs, *bend in zip(kept[::3], kept[1::3], kept[2::3], strict=True)]
        y = net.prepare(torch.cat([grad_gx, grad_products]))
        tensors = NetworkTensors.named(flat)
        y, grads = _pull_back(net, start, tensors, weights, stages, y, ctx.rows, ctx.needs_input_grad[3:])
        return None, y[: ctx.rows], y[ctx.rows :], *grads


def _twice_differentiable(
    net: Composition, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of g(x) and J t with a graph of their own, for a backward pass under ``create_graph``."""
    x, t, *tensors = map(alias, inputs)
    start = x if x.requires_grad else x.detach().requires_grad_()
    gx = function(net, tensors)(start)
    # J t is the derivative of Jᵀu in u.
    u = torch.zeros_like(gx, requires_grad=True)
    (jtu,) = torch.autograd.grad(gx, start, u, create_graph=True)
    columns = [torch.autograd.grad(jtu, u, tangent, create_graph=True)[0] for tangent in t.unflatten(0, (-1, len(x)))]
    asked = [tensor for tensor, need in zip((start, t, *tensors), wanted, strict=True) if need]
    outputs = (gx, torch.cat(columns))
    derivatives = iter(torch.autograd.grad(outputs, asked, cotangents, create_graph=True, allow_unused=True))
    return [next(derivatives) if need else None for need in wanted]


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
    inputs = widened_like(z, activation.width_factor)
    slope, curvature = activation.core_with_curvature(z[:rows], inputs[:rows])
    tangents = _by_probe(repeated_units(z[rows:], activation.width_factor), rows)
    torch.mul(tangents, slope, out=_by_probe(inputs[rows:], rows))
    return _Stage((inputs,), slope, tangents.mul_(curvature))


def _pull_back(
    net: Composition,
    start: Tensor,
    tensors: NetworkTensors,
    weights: Sequence[Tensor],
    stages: Sequence[_Stage],
    y: Tensor,
    rows: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Cotangents y = [ḡ; w] of g(x) and J t back to [x; t], and to the flat tensors where they are wanted."""
    want = NetworkTensors.named(wanted)
    grads: list[Tensor | None] = []
    parts = (net.layers, net.activations, tensors.layers, weights, stages, want.layers)
    for layer, activation, raw, weight, stage, need in zip(*map(reversed, parts), strict=True):
        scaled = _weight_gradient(layer, stage.inputs, y) if need.weight or need.scale else None
        grads.append(layer.spread_gradient(y[:rows]) if need.bias else None)
        grads.append((scaled * raw.weight).sum_to_size(raw.scale.shape) if scaled is not None and need.scale else None)
        grads.append(scaled * raw.scale if scaled is not None and need.weight else None)
        y = layer.apply_adjoint(weight, y)
        y = _backward_stage(activation, stage, y, rows)
    if net.activations[0] is None:
        return y, [None, *reversed(grads)]
    grad_gain = (y * start).sum_to_size(tensors.gain.shape) if want.gain else None
    return y * tensors.gain, [grad_gain, *reversed(grads)]


def _weight_gradient(layer: LipschitzLayer, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    cotangents = y.split([len(part) for part in inputs])
    first, *others = (layer.weight_gradient(*pair) for pair in zip(inputs, cotangents, strict=True))
    return sum(others, start=first)


def _backward_stage(activation: Activation | None, stage: _Stage, y: Tensor, rows: int) -> Tensor:
    """[ā; t̄] ↦ [φ'·ā + Σ_p φ''·t_p·t̄_p; φ'·t̄], summed over the features of a unit; y is used up."""
    if activation is None or stage.slope is None or stage.curved is None:
        return y
    value, tangents = y[:rows].mul_(stage.slope), _by_probe(y[rows:], rows)
    for curved, tangent in zip(stage.curved, tangents, strict=True):
        value.addcmul_(curved, tangent)
    tangents.mul_(stage.slope)
    return summed_features(y, activation.width_factor)


def _by_probe(t: Tensor, rows: int) -> Tensor:
    """``(probes·rows, …)`` as ``(probes, rows, …)``, a view; as it is where there is one probe."""
    return t.unflatten(0, (-1, rows)) if len(t) != rows else t[None]
