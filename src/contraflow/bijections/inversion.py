"""What an inverse through many blocks reports: every block's solution, and a bound on the error of the whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.chain import Chain
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.residual import ResidualBlock
from contraflow.numerics import FixedPoint, FixedPointSolver

_M = TypeVar("_M", bound=nn.Module)
# Name of a block, the block, its copy that may be changed
Change = Callable[[str, ResidualBlock, ResidualBlock], None]


@dataclass(frozen=True)
class BlockInverse:
    """The inverse of one residual block.

    Attributes:
        name: of the block in the module that was inverted.
        found: solution, evaluations, residual.
        error_bound: on ‖x - x*‖₂ for the z that the block was given, ``(batch,)``.
        lipschitz_bound: on Lip(f⁻¹) in the Euclidean norm: how much errors in that z may grow.
    """

    name: str
    found: FixedPoint
    error_bound: Tensor
    lipschitz_bound: float


@dataclass(frozen=True)
class InverseSolution:
    """x = f⁻¹(z) and what is known about it.

    Attributes:
        value: x, ``(batch, *event)``.
        blocks: reports of the residual blocks, in the order they were inverted: from the latent to the data.
        error_bound: on ‖x - f⁻¹(z)‖₂, ``(batch,)``: the errors of all blocks, carried through the inverses nearer to
            the data with their Lipschitz bounds. Proved, save for the rounding of the arithmetic, and pessimistic by
            orders of magnitude where there are many blocks; infinite where a layer gives no bound.
    """

    value: Tensor
    blocks: tuple[BlockInverse, ...]
    error_bound: Tensor

    @property
    def evaluations(self) -> Tensor:
        """Evaluations of all g together, for each sample, ``(batch,)``."""
        return sum((one.found.iterations for one in self.blocks), torch.zeros(len(self.value), dtype=torch.long))


@torch.no_grad()
def invert(
    module: Bijection | nn.Module, layers: Bijection, z: Tensor, context: Tensor | None = None
) -> InverseSolution:
    """The inverse of `module` with a report; docs/maths/fixed-point-inverse.md derives the bound.

    Args:
        module: what is inverted, and whose submodules' names the reports carry.
        layers: its layers from the data to the latent.
        z: ``(batch, *event)``.

    Raises:
        InversionError: a block did not reach its tolerance.
    """
    blocks: dict[ResidualBlock, BlockInverse] = {}

    def observe(name: str, block: ResidualBlock, twin: ResidualBlock) -> None:
        twin.observer = lambda found: blocks.update({block: _report(name, block, found)})

    value = _twin(module, observe).inverse(z, context)  # type: ignore[operator]
    bound, growth = z.new_zeros(len(z)), 1.0
    for layer in _leaves(layers):
        if isinstance(layer, ResidualBlock):
            bound = bound + growth * blocks[layer].error_bound
            growth *= blocks[layer].lipschitz_bound
        else:
            growth *= layer.inverse_lipschitz_bound()
    return InverseSolution(value, tuple(blocks.values()), bound)


def with_inverse(module: _M, solver: FixedPointSolver) -> _M:
    """The same module, sharing all parameters and buffers, whose residual blocks are inverted by another solver."""

    def change(name: str, block: ResidualBlock, twin: ResidualBlock) -> None:
        twin.solver = solver

    return _twin(module, change)


def _report(name: str, block: ResidualBlock, found: FixedPoint) -> BlockInverse:
    dimensions = found.value[0].numel() if len(found.value) else 1
    between_norms = dimensions ** abs(0.5 - 1 / found.order)
    bound = block.g.lipschitz_bound()
    lipschitz = between_norms / (1 - bound) if bound < 1 else math.inf
    return BlockInverse(name, found, block.inverse_error_bound(found), lipschitz)


def _leaves(bijection: Bijection) -> Iterator[Bijection]:
    """Layers from the data to the latent; what a multi-scale flow has factored out is joined without error."""
    parts = bijection if isinstance(bijection, Chain) else bijection.levels if isinstance(bijection, MultiScale) else ()
    if not isinstance(bijection, (Chain, MultiScale)):
        yield bijection
    for part in parts:
        yield from _leaves(part)  # type: ignore[arg-type]


def _twin(module: _M, change: Change, name: str = "") -> _M:
    twin = copy.copy(module)
    if isinstance(module, ResidualBlock):
        change(name, module, cast(ResidualBlock, twin))
    else:
        twin._modules = {
            key: child and _twin(child, change, f"{name}.{key}" if name else key)
            for key, child in module._modules.items()
        }
    return twin
