"""How a layer's operator norm is estimated, refreshed and certified: the spectral norm, and ‖·‖_{p→q}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from contraflow.errors import DomainError
from contraflow.lipschitz.convolution import within_reach
from contraflow.lipschitz.norms import BlockOrders
from contraflow.numerics import Order, dual_order, duality_map, induced_power_iteration, order_norm, power_iteration

if TYPE_CHECKING:
    from contraflow.lipschitz.layers import LipschitzLayer

#: Starts of a thorough search for ‖W‖_{p→q}, beside the present v; from a generator with a fixed seed.
_RESTARTS = 20


class OperatorNorm(ABC):
    """A norm of a layer's linear map, with its estimate from below and its bound from above."""

    @abstractmethod
    def sigma(self, layer: LipschitzLayer) -> Tensor:
        """The estimate at the layer's v, from below; a scalar with gradient."""

    @abstractmethod
    def search(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        """v by a thorough iteration."""

    @abstractmethod
    def refresh(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        """v by a warm-started iteration, once a step."""

    @abstractmethod
    def certified(self, layer: LipschitzLayer, weight: Tensor) -> float:
        """An upper bound on the norm of `weight` in the layer's place."""

    def version(self) -> Any:
        """Changes whenever the norm itself does."""
        return None

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What of the norm is learned."""
        return ()


class SpectralNorm(OperatorNorm):
    """σ₁(W)."""

    def sigma(self, layer: LipschitzLayer) -> Tensor:
        return layer.apply_weight(layer.weight, layer.v).norm()

    def search(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        return power_iteration(
            lambda v: layer.apply_weight(layer.weight, v),
            lambda u: layer.apply_adjoint(layer.weight, u),
            layer.v,
            tolerance=tolerance,
            max_iterations=max_iterations,
        ).v

    def refresh(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        return self.search(layer, tolerance, max_iterations)

    def certified(self, layer: LipschitzLayer, weight: Tensor) -> float:
        return layer.certified_norm(weight, 2.0, 2.0)


class InducedNorm(OperatorNorm):
    r"""‖W‖_{p→q} = max ‖W v‖_q / ‖v‖_p, with the orders that a block gives to this layer.

    σ = ‖W v‖_q / ‖v‖_p at fixed v is a lower bound for every v, p and q, also when v was found for other orders. Its
    gradient to W is u vᵀ; to p and q it is that of the norm itself, by the envelope theorem, and at the fixed point
    of the power method the same as through its last iteration. docs/maths/induced-norms.md.

    Args:
        orders: the block's.
        index: the layer's place in the block.

    Raises:
        DomainError: an order outside [1, ∞].
    """

    def __init__(self, orders: BlockOrders, index: int) -> None:
        wrong = [p for p in orders.values() if not p >= 1]
        if wrong:
            raise DomainError(f"norm order {wrong[0]:g}: orders lie in [1, ∞].")
        self.orders = orders
        self.index = index

    def pair(self) -> tuple[Order, Order]:
        """p and q."""
        return self.orders.pair(self.index)

    def version(self) -> Any:
        return self.orders.version()

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.orders.parameters())

    def sigma(self, layer: LipschitzLayer) -> Tensor:
        p, q = self.pair()
        ratio = order_norm(layer.apply_weight(layer.weight, layer.v), q) / order_norm(layer.v, p)
        return ratio[0] * _copies_factor(layer.copies, p, q)

    @torch.no_grad()
    def search(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        closed = self._closed(layer)
        if closed is not None:
            return closed
        generator = torch.Generator().manual_seed(0)
        fresh = torch.randn(_RESTARTS, *layer.v.shape[1:], generator=generator, dtype=torch.float64)
        return self._iterate(layer, torch.cat([layer.v, fresh.to(layer.v)]), tolerance, max_iterations)

    @torch.no_grad()
    def refresh(self, layer: LipschitzLayer, tolerance: float, max_iterations: int) -> Tensor:
        closed = self._closed(layer)
        return self._iterate(layer, layer.v, tolerance, max_iterations) if closed is None else closed

    def certified(self, layer: LipschitzLayer, weight: Tensor) -> float:
        p, q = self.orders.values()[self.index : self.index + 2]
        return layer.certified_norm(weight, p, q)

    def _iterate(self, layer: LipschitzLayer, starts: Tensor, tolerance: float, max_iterations: int) -> Tensor:
        """v of the best start."""
        found = induced_power_iteration(
            lambda v: layer.apply_weight(layer.weight, v),
            lambda u: layer.apply_adjoint(layer.weight, u),
            starts,
            *self.pair(),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        return found.v[found.sigma.argmax()][None]

    def _closed(self, layer: LipschitzLayer) -> Tensor | None:
        """The exact v of 1→q (the largest column) and of p→∞ (dual to the largest row); ``None`` for other orders."""
        p, q = self.pair()
        if isinstance(p, Tensor) or isinstance(q, Tensor) or (p != 1 and q != math.inf):
            return None
        if p == 1:
            columns = _power_sums(layer, layer.apply_adjoint, layer.apply_weight(layer.weight, layer.v), q)
            return _unit_vector(columns)
        dual = dual_order(p)
        assert isinstance(dual, float)
        rows = _power_sums(layer, layer.apply_weight, layer.v, dual)
        return duality_map(layer.apply_adjoint(layer.weight, _unit_vector(rows)), dual)


def _power_sums(layer: LipschitzLayer, apply: Any, like: Tensor, order: float) -> Tensor:
    """Scores that rank the columns (`apply` the adjoint) or the rows of the operator by their norm of that order."""
    absolute = layer.weight.detach().abs()
    if absolute.ndim == 4:
        absolute = within_reach(absolute, layer.v.shape[-2:])
    largest = absolute.max().clamp_min(torch.finfo(absolute.dtype).tiny)
    # For order ∞ the number of largest entries.
    scores = (absolute == largest).to(absolute) if order == math.inf else (absolute / largest) ** order
    return apply(scores, torch.ones_like(like))


def _unit_vector(scores: Tensor) -> Tensor:
    """The unit vector at the largest score, in the shape of the scores ``(1, …)``."""
    out = torch.zeros_like(scores).flatten(1)
    out[0, scores.flatten(1)[0].argmax()] = 1
    return out.reshape(scores.shape)


def _copies_factor(copies: int, p: Order, q: Order) -> Order:
    """‖I_N ⊗ W‖_{p→q} / ‖W‖_{p→q} = N^{max(0, 1/q - 1/p)}: one matrix at each of N pixels."""
    if copies == 1:
        return 1.0
    excess = 1 / q - 1 / p
    if isinstance(excess, Tensor):
        return torch.as_tensor(float(copies)).to(excess).pow(excess.clamp_min(0))
    return copies ** max(0.0, excess)
