"""How a layer's operator norm is estimated, refreshed and certified: the spectral norm, and ‖·‖_{p→q}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from contraflow.lipschitz.bounds.balance import Balanced, Densities, balance, densities_near
from contraflow.lipschitz.bounds.induced import induced_method
from contraflow.lipschitz.convolution import within_reach
from contraflow.lipschitz.norms import BlockOrders
from contraflow.numerics import Order, dual_order, duality_map, induced_power_iteration, order_norm, power_iteration

if TYPE_CHECKING:
    from contraflow.lipschitz.soft_normalisation import LipschitzLayer

#: Starts of a thorough search for ‖W‖_{p→q}, beside the present v; from a generator with a fixed seed.
_RESTARTS = 20


class OperatorNorm(ABC):
    """A norm of a layer's linear map, with its estimate from below and its bound from above."""

    @abstractmethod
    def sigma(self, layer: LipschitzLayer) -> Tensor:
        """The estimate at the layer's v, from below; a scalar with gradient."""

    def measure(self, layer: LipschitzLayer) -> Tensor:
        """What, times `layer.excess`, the weight is brought below c by: σ, or after a certified update a bound."""
        return self.sigma(layer)

    @abstractmethod
    def estimate(self, layer: LipschitzLayer, weight: Tensor) -> float:
        """The estimate for any weight at the layer's v, in float64."""

    @abstractmethod
    def statement(self, layer: LipschitzLayer) -> str:
        """How `certified` obtains its bound, in words."""

    def orders(self) -> tuple[float, float]:
        """p and q as numbers."""
        return 2.0, 2.0

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
        v = layer.v.clone()  # the graph keeps it, and v changes in place
        return layer.apply_weight(layer.weight, v).norm() / v.norm().clamp_min(torch.finfo(v.dtype).tiny)

    def estimate(self, layer: LipschitzLayer, weight: Tensor) -> float:
        v = layer.v.double()
        return (layer.apply_weight(weight.double(), v).norm() / v.norm()).item()

    def statement(self, layer: LipschitzLayer) -> str:
        return layer.spectral_method()

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
    """

    def __init__(self, orders: BlockOrders, index: int) -> None:
        self._orders = orders
        self.index = index

    def pair(self) -> tuple[Order, Order]:
        """p and q."""
        return self._orders.pair(self.index)

    def version(self) -> Any:
        return self._orders.version()

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self._orders.parameters())

    def orders(self) -> tuple[float, float]:
        p, q = self._orders.values()[self.index : self.index + 2]
        return p, q

    def sigma(self, layer: LipschitzLayer) -> Tensor:
        return self._ratio(layer, layer.weight, layer.v.clone(), *self.pair())

    def estimate(self, layer: LipschitzLayer, weight: Tensor) -> float:
        return float(self._ratio(layer, weight.double(), layer.v.double(), *self.orders()))

    def _ratio(self, layer: LipschitzLayer, weight: Tensor, v: Tensor, p: Order, q: Order) -> Tensor:
        ratio = order_norm(layer.apply_weight(weight, v), q) / order_norm(v, p)
        return ratio[0] * _copies_factor(layer.copies, p, q)

    def measure(self, layer: LipschitzLayer) -> Tensor:
        if layer.densities is None:
            return self.sigma(layer)
        found = self.balanced(layer, layer.densities)
        top = layer.densities.v.to(layer.weight)
        spectral = layer.apply_weight(found.weight, top).norm() / top.norm()
        return spectral.clamp_min(torch.finfo(spectral.dtype).tiny) ** found.exponent * self.copies_factor(layer)

    def balanced(self, layer: LipschitzLayer, densities: Densities) -> Balanced:
        """The operator whose spectral norm bounds that of the layer's weight, without its copies; with gradient."""
        local = Densities(*(one.to(layer.weight) for one in densities))
        return balance(layer.weight, *self.pair(), local, _pixels(layer))

    def balanced_exactly(self, layer: LipschitzLayer, densities: Densities) -> Balanced:
        """The same in float64."""
        double = Densities(*(one.double() for one in densities))
        return balance(layer.weight.double(), *self.orders(), double, _pixels(layer))

    def copies_factor(self, layer: LipschitzLayer) -> Order:
        """What the copies of a matrix at every pixel multiply its norm by."""
        return _copies_factor(layer.copies, *self.pair())

    @torch.no_grad()
    def find_densities(self, layer: LipschitzLayer) -> Densities | None:
        """Densities under which the bound on the layer's weight is small; ``None`` in the closed cases.

        They follow from the weight, v and the orders alone, so that no state has to be kept.
        """
        p, q = self.orders()
        if p == 1 or q == math.inf:
            return None
        return densities_near(layer.apply_weight, layer.apply_adjoint, layer.weight, layer.v, (p, q), _pixels(layer))

    def statement(self, layer: LipschitzLayer) -> str:
        p, q = self.orders()
        return layer.spectral_method() if p == q == 2 else induced_method(p, q)

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
        return layer.certified_norm(weight, *self.orders())

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


def _pixels(layer: LipschitzLayer) -> tuple[int, int]:
    """(H, W) of what v covers."""
    return (layer.v.shape[2], layer.v.shape[3]) if layer.v.ndim == 4 else (1, 1)


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
