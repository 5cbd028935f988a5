"""The norms in which a block is bounded: spectral, fixed orders p₀ → p₁ → … → p₀, or learned orders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import ConfigurationError, DomainError
from contraflow.numerics import Order

#: What learned orders minimise.
OrdersObjective = Literal["likelihood", "mean_norm"]


class OrderSquash(ABC):
    """A map from a free parameter s to an order p; s = 0 is p = 2."""

    @abstractmethod
    def __call__(self, s: Tensor) -> Tensor:
        """p(s), elementwise."""


@dataclass(frozen=True)
class NarrowRange(OrderSquash):
    """p = 2 + tanh(s)/2 on (1.5, 2.5), the range that the paper states.

    Chen et al. 2019 (arXiv:1906.02735), Appendix D, prints 1 + tanh(s)/2 beside that range.

    >>> NarrowRange()(torch.tensor([-9.0, 0.0, 9.0])).round(decimals=3).tolist()
    [1.5, 2.0, 2.5]
    """

    def __call__(self, s: Tensor) -> Tensor:
        return 2 + torch.tanh(s) / 2


@dataclass(frozen=True)
class SkewedRange(OrderSquash):
    """p = 3 + 2 tanh(-λ(artanh ½ - s)), λ(x) = 0.3x + 0.7 ELU(x), on (1, 5): the squash of the authors' code.

    Kept at or above 1.001, since rounding reaches 1 itself, whose dual order is infinite.

    >>> SkewedRange()(torch.tensor([-20.0, 0.0, 20.0])).round(decimals=2).tolist()
    [1.0, 2.0, 5.0]
    """

    def __call__(self, s: Tensor) -> Tensor:
        x = math.atanh(0.5) - s
        return (3 + 2 * torch.tanh(-0.3 * x - 0.7 * F.elu(x))).clamp_min(1.001)


class BlockOrders(nn.Module, ABC):
    """The orders p₀ … p_n of one block with n layers, p_n = p₀; layer l is measured from p_l to p_{l+1}."""

    @abstractmethod
    def pair(self, layer: int) -> tuple[Order, Order]:
        """Domain and codomain order of a layer: numbers, or tensors with gradient."""

    def mean_norm_pair(self, layer: int) -> tuple[Order, Order] | None:
        """The same with gradient where the orders are trained by the mean norm; ``None`` where they are not."""
        return None

    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """p₀ … p_n as numbers."""

    @abstractmethod
    def version(self) -> Any:
        """Changes whenever the orders do."""


class FixedOrders(BlockOrders):
    """Constants; nothing is stored in a state dict.

    Raises:
        DomainError: an order outside [1, ∞].
    """

    def __init__(self, orders: Sequence[float]) -> None:
        super().__init__()
        wrong = [p for p in orders if not p >= 1]
        if wrong:
            raise DomainError(f"norm order {wrong[0]:g}: orders lie in [1, ∞].")
        self._orders = tuple(float(p) for p in orders)

    def pair(self, layer: int) -> tuple[Order, Order]:
        return self._orders[layer], self._orders[layer + 1]

    def values(self) -> tuple[float, ...]:
        return self._orders

    def version(self) -> Any:
        return None

    def extra_repr(self) -> str:
        return format_orders(self._orders)


class LearnedOrders(BlockOrders):
    """p_l = squash(s_l) with p_n = p₀: n free orders, or one for all states of the block.

    Args:
        layers: n.
        shared: one order for the block.
        squash: s ↦ p.
        objective: what trains the orders, as for `LearnedNorms`.
    """

    def __init__(
        self, layers: int, shared: bool, squash: OrderSquash, objective: OrdersObjective = "likelihood"
    ) -> None:
        super().__init__()
        self.layers = layers
        self.squash = squash
        self.objective = objective
        self.raw = nn.Parameter(torch.zeros(1 if shared else layers))

    def _at(self, state: int) -> Tensor:
        return self.squash(self.raw[state % len(self.raw)])

    def pair(self, layer: int) -> tuple[Order, Order]:
        p, q = self._at(layer), self._at(layer + 1)
        return (p, q) if self.objective == "likelihood" else (p.detach(), q.detach())

    def mean_norm_pair(self, layer: int) -> tuple[Order, Order] | None:
        return (self._at(layer), self._at(layer + 1)) if self.objective == "mean_norm" else None

    @torch.no_grad()
    def values(self) -> tuple[float, ...]:
        return tuple(self._at(state).item() for state in range(self.layers + 1))

    def version(self) -> Any:
        return self.values()

    def extra_repr(self) -> str:
        return format_orders(self.values())


class Norms(ABC):
    """The norms in which a block's g is a contraction."""

    @abstractmethod
    def orders(self, layers: int) -> BlockOrders | None:
        """The orders of a block with that many layers; ``None`` for the spectral norm throughout.

        Raises:
            ConfigurationError: made for another number of layers.
        """


@dataclass(frozen=True)
class Spectral(Norms):
    """‖·‖₂ in every layer: the default."""

    def orders(self, layers: int) -> BlockOrders | None:
        return None


@dataclass(frozen=True)
class MixedNorms(Norms):
    r"""Fixed orders p₀ → p₁ → … → p_n = p₀: layer l is bounded in ‖W_l‖_{p_{l-1}→p_l}.

    The product then bounds g from ‖·‖_{p₀} into the same norm, in which x + g(x) is invertible by Banach's theorem. A
    chain that does not close bounds nothing of the kind: ‖g‖_{1→∞} < 1 allows eigenvalues far above one.

    Chen et al. 2019 (arXiv:1906.02735), Appendix D; docs/maths/induced-norms.md.

    Args:
        chain: p₀ … p_n, one more than the layers of g, each in [1, ∞].

    Raises:
        ConfigurationError: fewer than two orders, one outside [1, ∞], or a chain that does not close.

    >>> MixedNorms((2, 3, 2)).orders(2).values()
    (2.0, 3.0, 2.0)
    """

    chain: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "chain", tuple(float(p) for p in self.chain))
        written = format_orders(self.chain)
        if len(self.chain) < 2:
            raise ConfigurationError(f"norm orders {written or '()'}: a chain has one order more than g has layers.")
        wrong = [p for p in self.chain if not p >= 1]
        if wrong:
            raise ConfigurationError(
                f"norm orders {written}: {wrong[0]:g} is not the order of a norm; orders lie in [1, ∞]."
            )
        if self.chain[0] != self.chain[-1]:
            raise ConfigurationError(
                f"norm orders {written} do not close: g would be bounded from ‖·‖_{_name(self.chain[0])} into "
                f"‖·‖_{_name(self.chain[-1])}, which does not make x + g(x) invertible. "
                f"End with {_name(self.chain[0])}."
            )

    def orders(self, layers: int) -> BlockOrders:
        if len(self.chain) != layers + 1:
            raise ConfigurationError(
                f"norm orders {format_orders(self.chain)} are for g with {len(self.chain) - 1} layers; "
                f"this one has {layers} and needs {layers + 1} orders."
            )
        return FixedOrders(self.chain)


@dataclass(frozen=True)
class LearnedNorms(Norms):
    """Orders trained with the weights; all start at 2.

    Chen et al. 2019 (arXiv:1906.02735), Appendix D and Figure 18. See `contraflow.lipschitz.norm_orders` for their
    values.

    Args:
        shared: one order for all states of a block; otherwise every order is free, except that p_n = p₀.
        squash: `NarrowRange` onto (1.5, 2.5), or `SkewedRange` onto (1, 5).
        objective: what the orders minimise. ``"likelihood"``: the loss of the flow, through σ in W / max(1, σ/c).
            ``"mean_norm"``: the mean of σ over all layers, `contraflow.lipschitz.mean_norm`, at fixed weights, which
            is what the authors' code does; the weights then see the orders as constants.
    """

    shared: bool = False
    squash: OrderSquash = field(default_factory=NarrowRange)
    objective: OrdersObjective = "likelihood"

    def orders(self, layers: int) -> BlockOrders:
        return LearnedOrders(layers, self.shared, self.squash, self.objective)


def format_orders(orders: Sequence[float]) -> str:
    """p₀ → p₁ → … for messages.

    >>> format_orders((2.0, 2.25, math.inf))
    '2 → 2.25 → ∞'
    """
    return " → ".join(_name(p) for p in orders)


def _name(p: float) -> str:
    return "∞" if p == math.inf else f"{p:.4g}"
