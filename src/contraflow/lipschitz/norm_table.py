"""The norm orders of a flow, block by block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from contraflow.lipschitz.network import LipschitzNetwork
from contraflow.lipschitz.norms import format_orders


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
    return NormOrders({name: one.norm_orders() for name, one in named if isinstance(one, LipschitzNetwork)})
