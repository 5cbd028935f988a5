r"""‖W‖_{p→q} from above through the spectral norm of a balanced W: interpolation after a change of density.

For weights ω, ν > 0 of sum one on outputs and inputs, x = ν^{1/p}·f and W x = ω^{1/q}·h turn ‖·‖_p and ‖·‖_q into the
norms of f and h on probability spaces. There ‖T‖_{p→q} falls if p rises or q falls, and by Riesz and Thorin its
logarithm is convex in (1/p, 1/q). Both together bound ‖W‖_{p→q} by

    ‖ω^{1/2 - 1/q} W ν^{1/p - 1/2} · C^{θ/(1-θ)}‖_{2→2}^{1-θ},

with θ = 0 for p >= 2 >= q, and otherwise C the norms of the columns (or rows) that the other end of the segment asks
for. Valid for all ω, ν; nearly tight for those of the maximiser that the power method finds.
Derivation and measured looseness: docs/maths/induced-norms.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from contraflow.lipschitz.bounds.channels import adjoint_weight, column_norms
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.numerics import Order, dual_order, duality_map, order_number

#: Share of equal weights mixed into ω and ν, which bounds the factors that entries of W are multiplied by.
FLOOR = 0.05

#: Steps that improve ω and ν where p >= 2 >= q.
_AVERAGING = 4

#: Steps and first learning rate of `refine`.
_REFINING, _REFINING_RATE = 40, 0.2

#: Power iterations after every change of ω and ν.
_FOLLOWING = 3


class Densities(NamedTuple):
    """ω and ν of sum one, an entry a channel, and a unit vector near the top of the balanced operator."""

    outputs: Tensor
    inputs: Tensor
    v: Tensor


class Balanced(NamedTuple):
    """‖W‖_{p→q} <= ‖weight‖_{2→2} ** exponent."""

    weight: Tensor
    exponent: Order


def balance(weight: Tensor, p: Order, q: Order, densities: Densities, size: tuple[int, int]) -> Balanced:
    """The balanced operator; differentiable in the weight and in tensor orders at fixed densities.

    Args:
        weight: ``(out, in)``, or the kernel ``(out, in, k, k)`` of a zero-padded convolution.
        p, q: orders, 1 < p and q < ∞.
        densities: ω and ν.
        size: (H, W) of a convolution.
    """
    a, b = 1 / p, 1 / q
    pixels = size[0] * size[1]
    outputs, inputs = densities.outputs / pixels, densities.inputs / pixels
    if order_number(a) <= 0.5 <= order_number(b):
        return Balanced(_scaled(weight, outputs ** (0.5 - b), inputs ** (a - 0.5)), 1.0)
    if order_number(a) + order_number(b) >= 1:
        return _by_columns(weight, a, b, outputs, size)
    # W from p to q is its adjoint from q* to p*.
    balanced = _by_columns(adjoint_weight(weight), 1 - b, 1 - a, inputs, size)
    return Balanced(adjoint_weight(balanced.weight), balanced.exponent)


def _by_columns(weight: Tensor, a: Order, b: Order, outputs: Tensor, size: tuple[int, int]) -> Balanced:
    """For a = 1/p > 1/2 and a + b >= 1: the segment from (1/2, 1/2) through (a, b) ends at 1→1/B.

    For b > a it goes through (a, a) instead, whose codomain norm is larger.
    """
    theta = 2 * a - 1
    end = 0.5 - (0.5 - b) / theta if order_number(b) <= order_number(a) else 1.0
    columns = column_norms(_scaled(weight, outputs ** (end - b)), end, size)
    return Balanced(_scaled(weight, outputs ** (0.5 - b), columns ** (theta / (1 - theta))), 1 - theta)


@torch.no_grad()
def densities_near(
    operator: LinearOperator, v: Tensor, orders: tuple[float, float], floor: float = FLOOR, effort: int = 1
) -> Densities:
    """Densities of the maximiser: ω ∝ |W v|^q and ν ∝ |Wᵀu|^{p*} ∝ |v|^p, above a floor.

    Where p >= 2 >= q they are improved: at the best ones ω and ν are the squared singular vectors themselves.

    Args:
        operator: W.
        v: the power method's vector for ‖W‖_{p→q}, ``(1, in, …)``.
        orders: p and q.
        floor: share of equal weights.
        effort: factor on the iterations.
    """
    p, q = orders
    dual = dual_order(p)
    assert isinstance(dual, float)
    image = operator(v)
    back = operator.adjoint()(duality_map(image, q))
    outputs, inputs = _density(image, q, floor), _density(back, dual, floor)
    top = v.sign() * v.abs().pow(min(p, 16.0) / 2)
    averaged = p >= 2 >= q
    for step in range(effort * _AVERAGING if averaged else 1):
        balanced = operator.at(balance(operator.weight, p, q, Densities(outputs, inputs, top), operator.size).weight)
        adjoint = balanced.adjoint()
        for _ in range(effort * _FOLLOWING):
            left = _unit(balanced(top))
            top = _unit(adjoint(left))
        if averaged:
            rate = 1 / (step + 5)
            outputs = torch.lerp(outputs, _density(left, 2.0, 0.0), rate)
            inputs = torch.lerp(inputs, _density(top, 2.0, 0.0), rate)
    return Densities(outputs, inputs, top)


def refine(weight: Tensor, p: float, q: float, densities: Densities) -> Densities:
    """The best densities on a path by which Adam lowers the bound on a matrix, on the logarithms of ω and ν.

    Around the best densities several singular values are equal, so that steps along one of them go back and forth:
    the path is followed with exact singular values, and its best point is returned. The bound holds for every choice of
    densities, so that the path needs no proof.

    Args:
        weight: ``(out, in)`` in float64.
        p, q: orders, 1 < p and q < ∞.
        densities: where to start.
    """
    logits = [density.log().requires_grad_() for density in densities[:2]]
    optimiser = torch.optim.Adam(logits, betas=(0.8, 0.95))
    best, lowest = densities, math.inf
    for step in range(_REFINING):
        optimiser.param_groups[0]["lr"] = _REFINING_RATE * (1 - step / _REFINING)
        with torch.enable_grad():
            outputs, inputs = (logit.softmax(dim=0) for logit in logits)
            balanced = balance(weight, p, q, Densities(outputs, inputs, densities.v), (1, 1))
            wide = balanced.weight if len(weight) <= weight.shape[1] else balanced.weight.T
            loss = torch.linalg.eigvalsh(wide @ wide.T)[-1].log()
        if loss.item() < lowest:
            best, lowest = Densities(outputs.detach(), inputs.detach(), densities.v), loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return best


def _density(x: Tensor, order: float, floor: float) -> Tensor:
    """|x|^order summed over pixels, of sum one, every entry at least floor / channels."""
    size = x.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)
    powers = ((x[0].abs() / size) ** order).flatten(1).sum(dim=1) if x.ndim > 2 else (x[0].abs() / size) ** order
    return torch.lerp(
        powers / powers.sum().clamp_min(torch.finfo(x.dtype).tiny), torch.ones_like(powers) / len(powers), floor
    )


def _unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)


def _scaled(weight: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """diag(rows) · W · diag(columns), channel by channel."""
    ones = [1] * (weight.ndim - 2)
    weight = weight * rows.reshape(-1, 1, *ones)
    return weight if columns is None else weight * columns.reshape(1, -1, *ones)
