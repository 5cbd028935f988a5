"""The certificate of a flow: which Lipschitz bounds of its blocks and layers are proved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from contraflow.lipschitz.activations import ACTIVATIONS
from contraflow.lipschitz.dense_concatenation import DenseConcatenation
from contraflow.lipschitz.network import LipschitzNetwork
from contraflow.lipschitz.norms import format_orders
from contraflow.lipschitz.soft_normalisation import LipschitzLayer


@dataclass(frozen=True)
class LayerCertificate:
    """One linear layer, with its weight as it is used.

    Attributes:
        name: as in ``flow.named_modules()``.
        estimate: ‖W̄v‖_q / ‖v‖_p at the power iteration's v, from below.
        bound: certified norm of W̄ in float64, from above.
        target: c, the bound that the layer was given.
        norm: the orders of ‖·‖_{p→q}, as text: "2 → 2" for the spectral norm.
        method: how the bound was obtained.
    """

    name: str
    estimate: float
    bound: float
    target: float
    norm: str = "2 → 2"
    method: str = ""

    @property
    def within_target(self) -> bool:
        """Whether the certified bound is at most c."""
        return self.bound <= self.target


@dataclass(frozen=True)
class BlockCertificate:
    r"""One residual block x + g(x).

    Attributes:
        name: as in ``flow.named_modules()``.
        bound: L >= Lip(g) from ‖W̄_l‖ and Lip(φ_l) where certified (their product; for a dense concatenation see
            `DenseConcatenation`), else the number that the author of g asserts.
        certified: whether L follows from the weights; ``False`` where the author of g asserts it.
        reason: why L is not certified, or empty.
        layers: of g, in order; empty where not certified.
        activations: the constants Lip(φ_l), in order.
        order: p of the norm ‖·‖_p in which L holds.
        estimate: the same from the layers' estimates, from below; ``None`` where not certified.
        target: the same from their c; ``None`` where not certified.
    """

    name: str
    bound: float
    certified: bool
    reason: str
    layers: tuple[LayerCertificate, ...] = ()
    activations: tuple[float, ...] = ()
    order: float = 2.0
    estimate: float | None = None
    target: float | None = None

    @property
    def within_target(self) -> bool:
        """Whether L is certified and no layer exceeds its c."""
        return self.certified and all(layer.within_target for layer in self.layers)

    @property
    def margin(self) -> float:
        """1 - L; the inverse is proved to exist where it is positive and L is certified."""
        return 1 - self.bound

    @property
    def inverse_error(self) -> float:
        r"""1/(1 - L): ‖x - x*‖_p is at most this factor times ‖z - x - g(x)‖_p, p = `order`; infinite where L >= 1.

        Euclidean errors of D-dimensional x are at most D^{max(0, 1/2 - 1/p)} times ‖·‖_p.
        """
        return 1 / self.margin if self.margin > 0 else math.inf


@dataclass(frozen=True)
class Certificate:
    r"""The Lipschitz bounds of all residual blocks of a flow: estimated from below, certified from above.

    Bounds hold for the weights as they are, in exact arithmetic: docs/maths/lipschitz-bounds.md. Prints as a table.

    Attributes:
        blocks: the residual blocks in order; maps without a contraction are not listed.
    """

    blocks: tuple[BlockCertificate, ...]

    @property
    def uncertified(self) -> tuple[str, ...]:
        """Names of the blocks whose bound is asserted by their author, without proof."""
        return tuple(block.name for block in self.blocks if not block.certified)

    @property
    def invertible(self) -> bool:
        """Whether every block is proved invertible: all are certified, and all L < 1."""
        return all(block.certified and block.margin > 0 for block in self.blocks)

    @property
    def within_target(self) -> bool:
        """Whether every block is certified and every layer within its c."""
        return all(block.within_target for block in self.blocks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite number is ``None``."""
        return {
            "invertible": self.invertible,
            "within_target": self.within_target,
            "uncertified": list(self.uncertified),
            "blocks": [_block_values(block) for block in self.blocks],
        }

    def __str__(self) -> str:
        if not self.blocks:
            return "no residual block: nothing to certify"
        mixed = any(layer.norm != "2 → 2" for block in self.blocks for layer in block.layers)
        norm = ("norm", "bounded by") if mixed else ()
        rows: list[tuple[str, ...]] = [
            ("block or layer", "estimate", "certified", "target", "1 - L", "1/(1 - L)", *norm)
        ]
        for block in self.blocks:
            rows.append((*_block_row(block), *((f"ℓ_{format_orders((block.order,))}", "") if mixed else ())))
            rows += [
                (*_layer_row(block, layer), *((layer.norm, layer.method) if mixed else ())) for layer in block.layers
            ]
        return "\n".join([*_align(rows), self._verdict()])

    def _verdict(self) -> str:
        count = f"{len(self.blocks)} block" + ("s" if len(self.blocks) != 1 else "")
        if self.uncertified:
            reasons = "; ".join(f"{block.name}: {block.reason}" for block in self.blocks if not block.certified)
            return f"{count}, {len(self.uncertified)} UNCERTIFIED, invertibility is not proved ({reasons})"
        worst = max(block.bound for block in self.blocks)
        proof = "every block is proved invertible" if self.invertible else "NOT every block is proved invertible"
        over = sum(not layer.within_target for block in self.blocks for layer in block.layers)
        excess = f"; {over} layers above their target, see rescale_to_certificate" if over else ""
        return f"{count}: {proof}, largest certified bound {worst:.4f}{excess}"


class Bounded(Protocol):
    """A map with a Lipschitz bound."""

    def lipschitz_bound(self) -> float:
        """L, from above."""


@torch.no_grad()
def certify_contraction(name: str, g: Bounded) -> BlockCertificate:
    """The certificate of a block with this g; uncertified, with its author's bound, where g has no known proof."""
    if reason := _foreign(g):
        return BlockCertificate(name, g.lipschitz_bound(), False, reason)
    assert isinstance(g, (LipschitzNetwork, DenseConcatenation))
    layers = tuple(certify_layer(f"{name}.g.layers.{index}", layer) for index, layer in enumerate(g.stack()))
    if isinstance(g, LipschitzNetwork):
        activations = g.activation_constants()
        order, compose = g.norm_order, lambda norms: math.prod((*norms, *activations))
    else:
        activations = (g.pair_constant,) * len(g.concatenations)
        order, compose = g.norm_order, g.compose
    bound, estimate, target = (
        compose([getattr(layer, what) for layer in layers]) for what in ("bound", "estimate", "target")
    )
    return BlockCertificate(name, bound, True, "", layers, activations, order, estimate, target)


@torch.no_grad()
def certify_layer(name: str, layer: LipschitzLayer) -> LayerCertificate:
    """Estimate, certified bound and target of one layer."""
    bound = layer.certify()
    estimate = layer.norm.estimate(layer.operator(layer.normalised()), layer.v)
    return LayerCertificate(name, estimate, bound, layer.bound, format_orders(layer.norm.orders()), layer.method())


def _foreign(g: object) -> str:
    """Why norms and constants prove no bound on this g; empty where they do."""
    for known in (LipschitzNetwork, DenseConcatenation):
        if isinstance(g, known) and not _same(type(g), known):
            return f"{type(g).__name__} computes another map than {known.__name__}"
    if isinstance(g, DenseConcatenation):
        return ""
    if not isinstance(g, LipschitzNetwork):
        return f"the bound of {type(g).__name__} is asserted by its author"
    for activation in g.activations:
        if type(activation) not in ACTIVATIONS.values():
            return f"the constant of the activation {type(activation).__name__} is asserted by its author"
    return ""


def _same(changed: type, known: type) -> bool:
    """Whether a subclass computes the map of its parent."""
    names = ("value", "tensors", "stack", "composition", "compose", "activation_constants", "pair_constant")
    return all(getattr(changed, name, None) is getattr(known, name, None) for name in names)


def _block_values(block: BlockCertificate) -> dict[str, Any]:
    return {
        "name": block.name,
        "certified": block.certified,
        "reason": block.reason,
        "estimate": block.estimate,
        "bound": block.bound if math.isfinite(block.bound) else None,
        "target": block.target,
        "margin": block.margin if math.isfinite(block.margin) else None,
        "inverse_error": block.inverse_error if math.isfinite(block.inverse_error) else None,
        "activations": list(block.activations),
        "norm": format_orders((block.order,)),
        "layers": [vars(layer) for layer in block.layers],
    }


def _block_row(block: BlockCertificate) -> tuple[str, ...]:
    end = (f"{block.margin:.5f}", f"{block.inverse_error:.4g}")
    if not block.certified:
        return block.name, "", f"({block.bound:.5f} asserted)", "", *end
    return block.name, f"{block.estimate:.5f}", f"{block.bound:.5f}", f"{block.target:.5f}", *end


def _layer_row(block: BlockCertificate, layer: LayerCertificate) -> tuple[str, ...]:
    name = "  " + layer.name.removeprefix(f"{block.name}.")
    mark = "" if layer.within_target else " !"
    return name, f"{layer.estimate:.5f}", f"{layer.bound:.5f}{mark}", f"{layer.target:.5f}", "", ""


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


@dataclass(frozen=True)
class NormOrders:
    """The orders p₀ … p_n of every block; its text is one line a block.

    Attributes:
        blocks: name of g inside the flow → its orders, from data to latent.
    """

    blocks: dict[str, tuple[float, ...]]

    def __str__(self) -> str:
        width = max((len(name) for name in self.blocks), default=0)
        return "\n".join(f"{name:{width}}  {format_orders(orders)}" for name, orders in self.blocks.items())


def norm_orders(module: nn.Module) -> NormOrders:
    """The norm orders of all blocks of a flow, fixed or as learned so far; 2 throughout for spectral blocks.

    Chen et al. 2019 (arXiv:1906.02735), Figure 18; `contraflow.evaluation.norm_orders_picture` draws them.

    >>> from contraflow.lipschitz import LipschitzMLP, MixedNorms
    >>> print(norm_orders(nn.Sequential(LipschitzMLP(2, (4,), norms=MixedNorms((2, 3, 2))), LipschitzMLP(2, (4,)))))
    0  2 → 3 → 2
    1  2 → 2 → 2
    """
    named = module.named_modules()
    return NormOrders({name: g.norm_orders() for name, g in named if isinstance(g, LipschitzNetwork)})
