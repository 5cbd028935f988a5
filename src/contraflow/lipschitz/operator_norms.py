"""Norms of linear operators, estimated from below: the spectral norm, ‖·‖_{p→q}, and norms by rows and columns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from contraflow.errors import ConfigurationError, DomainError
from contraflow.lipschitz.bounds.balance import Balanced, Densities, balance, densities_near
from contraflow.lipschitz.bounds.channels import column_norms, row_norms
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.lipschitz.norms import BlockOrders
from contraflow.numerics import Order, induced_power_iteration, order_norm, power_iteration

#: Starts of a thorough search for ‖W‖_{p→q}, beside the present v; from a generator with a fixed seed.
_RESTARTS = 20

#: Iterations where values cannot be read: weights that `torch.func.vmap` runs over.
_UNSEEN_ITERATIONS = 50


class OperatorNorm(ABC):
    """A norm of a `LinearOperator`, estimated from below at a vector v ``(1, *in)`` that power iteration finds.

    Attributes:
        stacks: whether one norm serves all operators of a shape, and takes a stack of them with v ``(stack, *in)``.
        iterative: whether the norm is estimated at v; else it is exact, and v is not used.
    """

    stacks: bool = False
    iterative: bool = True

    @abstractmethod
    def sigma(self, operator: LinearOperator, v: Tensor) -> Tensor:
        """The estimate at every v, from below, ``(len(v),)``; with gradient to the weight and to learned orders."""

    def measure(self, operator: LinearOperator, v: Tensor, densities: Densities | None) -> Tensor:
        """What a layer's weight is divided by, over c, where it is above c.

        It is σ, or an upper bound at given densities, ``(len(v),)``; or the norm of every row or column of one
        operator, of shape ``(1, out, 1, …)`` or ``(1, 1, in, …)``.
        """
        return self.sigma(operator, v)

    @abstractmethod
    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        """σ in float64."""

    @abstractmethod
    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        """v by power iteration: from a warm start v, or by a thorough search from other starts as well."""

    def unseen(self, operator: LinearOperator, v: Tensor) -> Tensor:
        """σ of a weight that `torch.func.vmap` runs over, after a fixed number of iterations from v.

        Raises:
            ConfigurationError: the iteration of this norm has to read values of the weight.
        """
        raise ConfigurationError("torch.func.vmap over the weights of a flow needs spectral norms; loop over them.")

    def orders(self) -> tuple[float, float]:
        """p and q as numbers."""
        return 2.0, 2.0

    def version(self) -> Any:
        """Changes whenever the norm itself does."""
        return None

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters of the norm that are learned."""
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

    The fixed orders p = 1 and q = ∞ belong to `ChannelwiseNorm`: `norm_between` chooses.

    Args:
        orders: the block's.
        index: the layer's place in the block.

    Raises:
        DomainError: p = 1 or q = ∞.
    """

    def __init__(self, orders: BlockOrders, index: int) -> None:
        self._orders = orders
        self.index = index
        if (closed := _closed(orders, index)) is not None:
            p, q = closed
            raise DomainError(f"the norm from p={p:g} to q={q:g} is exact: take ChannelwiseNorm({p:g}, {q:g}).")

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

    def for_mean_norm(self, operator: LinearOperator, v: Tensor) -> Tensor | None:
        """σ with gradient to the orders alone, where the mean norm trains them; else ``None``."""
        pair = self._orders.mean_norm_pair(self.index)
        return None if pair is None else _ratio(operator.at(operator.weight.detach()), v, *pair)[0]

    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        return _ratio(operator.double(), v.double(), *self.orders()).item()

    def measure(self, operator: LinearOperator, v: Tensor, densities: Densities | None) -> Tensor:
        if densities is None:
            return self.sigma(operator, v)
        balanced = self.balanced(operator, densities)
        top = densities.v.to(operator.weight)
        spectral = operator.at(balanced.weight)(top).flatten(1).norm(dim=1) / lengths(top)
        return spectral.clamp_min(torch.finfo(spectral.dtype).tiny) ** balanced.exponent * self.copies_factor(operator)

    def balanced(self, operator: LinearOperator, densities: Densities) -> Balanced:
        """The operator whose spectral norm bounds that of one copy of the operator; with gradient."""
        local = Densities(*(tensor.to(operator.weight) for tensor in densities))
        return balance(operator.weight, *self.pair(), local, operator.size)

    def balanced_exactly(self, operator: LinearOperator, densities: Densities) -> Balanced:
        """The same in float64."""
        double = Densities(*(tensor.double() for tensor in densities))
        return balance(operator.weight.double(), *self.orders(), double, operator.size)

    def copies_factor(self, operator: LinearOperator) -> Order:
        """The factor by which the copies of a matrix at every pixel raise its norm."""
        return _copies_factor(operator.copies, *self.pair())

    @torch.no_grad()
    def find_densities(self, operator: LinearOperator, v: Tensor) -> Densities:
        """Densities under which the bound on the operator is small.

        They follow from the weight, v and the orders alone, so that no state has to be kept.
        """
        return densities_near(operator, v, self.orders())

    @torch.no_grad()
    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        p, q = self.pair()
        starts = v
        if thorough:
            generator = torch.Generator().manual_seed(0)
            fresh = torch.randn(_RESTARTS, *v.shape[1:], generator=generator, dtype=torch.float64)
            starts = torch.cat([v, fresh.to(v)])
        triple = induced_power_iteration(
            operator, operator.adjoint(), starts, p, q, tolerance=tolerance, max_iterations=max_iterations
        )
        return triple.v[triple.sigma.argmax()][None]


class ChannelwiseNorm(OperatorNorm):
    r"""‖W‖_{p→∞} = max_i ‖W_{i:}‖_{p*} by rows, or ‖W‖_{1→q} = max_j ‖W_{:j}‖_q by columns; exact.

    A layer divides every row by max(1, its norm/c), so that all rows can reach c; a single divisor for the matrix
    would leave all but the largest row below it. For p = 1 it is every column. The row of a convolution is an output
    channel, over input channels and the taps that its images reach; the column is an input channel.
    Derivation: docs/maths/induced-norms.md.

    Args:
        p, q: orders in [1, ∞] with p = 1 or q = ∞; columns where both hold.

    Raises:
        DomainError: neither p = 1 nor q = ∞.

    >>> norm = ChannelwiseNorm(math.inf, math.inf)
    >>> operator = LinearOperator(torch.tensor([[3.0, -4.0], [0.5, 0.0]]), lambda W, x: x @ W.mT, lambda W: W.mT)
    >>> norm.channels(operator)
    tensor([[7.0000],
            [0.5000]])
    """

    iterative = False

    def __init__(self, p: float, q: float) -> None:
        if p != 1 and q != math.inf:
            raise DomainError(f"the norm from p={p:g} to q={q:g} has no rows or columns: p = 1 or q = inf has.")
        self._p, self._q = float(p), float(q)

    def orders(self) -> tuple[float, float]:
        return self._p, self._q

    def channels(self, operator: LinearOperator) -> Tensor:
        """The norm of every row ``(out, 1, …)`` or column ``(1, in, …)``."""
        weight = operator.weight
        ones = [1] * (weight.ndim - 2)
        if self._p == 1:
            return column_norms(weight, 1 / self._q, operator.size).reshape(1, -1, *ones)
        return row_norms(weight, 1 - 1 / self._p, operator.size).reshape(-1, 1, *ones)

    def sigma(self, operator: LinearOperator, v: Tensor) -> Tensor:
        return self.channels(operator).amax()[None]

    def measure(self, operator: LinearOperator, v: Tensor, densities: Densities | None) -> Tensor:
        # Sums and divided weights are rounded, and the certificate adds 1e-12: so it stays below c all the same.
        rounding = 2e-12 + torch.finfo(operator.weight.dtype).eps * (8 + math.sqrt(operator.weight.numel()))
        return self.channels(operator)[None] * (1 + rounding)

    def estimate(self, operator: LinearOperator, v: Tensor) -> float:
        return self.sigma(operator.double(), v).item()

    def search(
        self, operator: LinearOperator, v: Tensor, tolerance: float, max_iterations: int, *, thorough: bool
    ) -> Tensor:
        return v


def norm_between(orders: BlockOrders, index: int) -> OperatorNorm:
    """‖·‖_{p→q} of the layer at that place of a block: by rows or columns where the orders are fixed and allow it."""
    closed = _closed(orders, index)
    return InducedNorm(orders, index) if closed is None else ChannelwiseNorm(*closed)


def _closed(orders: BlockOrders, index: int) -> tuple[float, float] | None:
    """Fixed p and q with p = 1 or q = ∞; ``None`` for others. Learned orders, which are tensors, reach neither."""
    p, q = orders.pair(index)
    if isinstance(p, Tensor) or isinstance(q, Tensor) or (p != 1 and q != math.inf):
        return None
    return p, q


def layer_norms(orders: BlockOrders | None, layers: int) -> list[OperatorNorm]:
    """The norm of every layer of a block; spectral without orders."""
    if orders is None:
        return [SpectralNorm() for _ in range(layers)]
    return [norm_between(orders, index) for index in range(layers)]


def lengths(v: Tensor) -> Tensor:
    """‖v‖₂ of every member of a stack, never zero."""
    return v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)


def _ratio(operator: LinearOperator, v: Tensor, p: Order, q: Order) -> Tensor:
    """‖W v‖_q / ‖v‖_p of the operator with its copies."""
    return order_norm(operator(v), q) / order_norm(v, p) * _copies_factor(operator.copies, p, q)


def _copies_factor(copies: int, p: Order, q: Order) -> Order:
    """‖I_N ⊗ W‖_{p→q} / ‖W‖_{p→q} = N^{max(0, 1/q - 1/p)}: one matrix at each of N pixels."""
    if copies == 1:
        return 1.0
    excess = 1 / q - 1 / p
    if isinstance(excess, Tensor):
        return torch.as_tensor(float(copies)).to(excess).pow(excess.clamp_min(0))
    return copies ** max(0.0, excess)
