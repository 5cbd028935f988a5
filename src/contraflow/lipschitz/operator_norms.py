"""How an operator's norm is estimated from below, and what bounds it: the spectral norm, and ‖·‖_{p→q}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from contraflow.errors import ConfigurationError
from contraflow.lipschitz.bounds.balance import Balanced, Densities, balance, densities_near
from contraflow.lipschitz.convolution import within_reach
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.lipschitz.norms import BlockOrders
from contraflow.numerics import Order, dual_order, duality_map, induced_power_iteration, order_norm, power_iteration

#: Starts of a thorough search for ‖W‖_{p→q}, beside the present v; from a generator with a fixed seed.
_RESTARTS = 20

#: Iterations where nobody may look at values: weights that `torch.func.vmap` runs over.
_UNSEEN_ITERATIONS = 50


class OperatorNorm(ABC):
    """A norm of a `LinearOperator`, estimated from below at a vector v ``(1, *in)`` that power iteration finds.

    Attributes:
        stacks: whether one norm serves all operators of a shape, and takes a stack of them with v ``(stack, *in)``.
    """

    stacks: bool = False

    @abstractmethod
    def sigma(self, operator: LinearOperator, v: Tensor) -> Tensor:
        """The estimate at every v, from below, ``(len(v),)``; with gradient to the weight and to learned orders."""

    def measure(self, operator: LinearOperator, v: Tensor, densities: Densities | None) -> Tensor:
        """What, times a layer's `excess`, its weight is brought below c by: σ, or at given densities a bound."""
        return self.sigma(operator, v)

    @abstractmethod
    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        """σ in float64."""

    @abstractmethod
    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        """v by power iteration: from a warm start, or a thorough one that does not trust its start."""

    def unseen(self, operator: LinearOperator, v: Tensor) -> Tensor:
        """σ of a weight that `torch.func.vmap` runs over, after a fixed number of iterations from v.

        Raises:
            ConfigurationError: this norm has to look at the weight's values.
        """
        raise ConfigurationError("torch.func.vmap over the weights of a flow needs spectral norms; loop over them.")

    def orders(self) -> tuple[float, float]:
        """p and q as numbers."""
        return 2.0, 2.0

    def version(self) -> Any:
        """Changes whenever the norm itself does."""
        return None

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What of the norm is learned."""
        return ()


class SpectralNorm(OperatorNorm):
    """σ₁(W)."""

    stacks = True

    def sigma(self, operator: LinearOperator, v: Tensor) -> Tensor:
        return operator(v).flatten(1).norm(dim=1) / lengths(v)

    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        return self.sigma(operator.double(), v.double()).item()

    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        return power_iteration(operator, operator.adjoint(), v, tolerance=tolerance, max_iterations=max_iterations).v

    def unseen(self, operator: LinearOperator, v: Tensor) -> Tensor:
        fixed = operator.at(operator.weight.detach())
        adjoint = fixed.adjoint()
        for _ in range(_UNSEEN_ITERATIONS):
            v = adjoint(fixed(v))
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
        return self.sigma(operator, v)


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

    def sigma(self, operator: LinearOperator, v: Tensor) -> Tensor:
        return _ratio(operator, v, *self.pair())

    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        return _ratio(operator.double(), v.double(), *self.orders()).item()

    def measure(self, operator: LinearOperator, v: Tensor, densities: Densities | None) -> Tensor:
        if densities is None:
            return self.sigma(operator, v)
        found = self.balanced(operator, densities)
        top = densities.v.to(operator.weight)
        spectral = operator.at(found.weight)(top).flatten(1).norm(dim=1) / lengths(top)
        return spectral.clamp_min(torch.finfo(spectral.dtype).tiny) ** found.exponent * self.copies_factor(operator)

    def balanced(self, operator: LinearOperator, densities: Densities) -> Balanced:
        """The operator whose spectral norm bounds that of one copy of the operator; with gradient."""
        local = Densities(*(one.to(operator.weight) for one in densities))
        return balance(operator.weight, *self.pair(), local, operator.size)

    def balanced_exactly(self, operator: LinearOperator, densities: Densities) -> Balanced:
        """The same in float64."""
        double = Densities(*(one.double() for one in densities))
        return balance(operator.weight.double(), *self.orders(), double, operator.size)

    def copies_factor(self, operator: LinearOperator) -> Order:
        """What the copies of a matrix at every pixel multiply its norm by."""
        return _copies_factor(operator.copies, *self.pair())

    @torch.no_grad()
    def find_densities(self, operator: LinearOperator, v: Tensor) -> Densities | None:
        """Densities under which the bound on the operator is small; ``None`` in the closed cases.

        They follow from the weight, v and the orders alone, so that no state has to be kept.
        """
        p, q = self.orders()
        return None if p == 1 or q == math.inf else densities_near(operator, v, (p, q))

    @torch.no_grad()
    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        p, q = self.pair()
        if (closed := _closed(operator, v, p, q)) is not None:
            return closed
        starts = v
        if thorough:
            generator = torch.Generator().manual_seed(0)
            fresh = torch.randn(_RESTARTS, *v.shape[1:], generator=generator, dtype=torch.float64)
            starts = torch.cat([v, fresh.to(v)])
        found = induced_power_iteration(
            operator, operator.adjoint(), starts, p, q, tolerance=tolerance, max_iterations=max_iterations
        )
        return found.v[found.sigma.argmax()][None]


def lengths(v: Tensor) -> Tensor:
    """‖v‖₂ of every member of a stack, never zero."""
    return v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)


def _ratio(operator: LinearOperator, v: Tensor, p: Order, q: Order) -> Tensor:
    """‖W v‖_q / ‖v‖_p of the operator with its copies."""
    return order_norm(operator(v), q) / order_norm(v, p) * _copies_factor(operator.copies, p, q)


def _closed(operator: LinearOperator, v: Tensor, p: Order, q: Order) -> Tensor | None:
    """The exact v of 1→q (the largest column) and of p→∞ (dual to the largest row); ``None`` for other orders."""
    if isinstance(p, Tensor) or isinstance(q, Tensor) or (p != 1 and q != math.inf):
        return None
    if p == 1:
        return _unit_vector(_power_sums(operator.adjoint(), operator(v), q))
    dual = dual_order(p)
    assert isinstance(dual, float)
    return duality_map(operator.adjoint()(_unit_vector(_power_sums(operator, v, dual))), dual)


def _power_sums(operator: LinearOperator, like: Tensor, order: float) -> Tensor:
    """Scores that rank the rows of the operator by their norm of that order, from an input in whose shape ones are."""
    absolute = within_reach(operator.weight.detach().abs(), operator.size)
    largest = absolute.max().clamp_min(torch.finfo(absolute.dtype).tiny)
    # For order ∞ the number of largest entries.
    scores = (absolute == largest).to(absolute) if order == math.inf else (absolute / largest) ** order
    return operator.at(scores)(torch.ones_like(like))


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
