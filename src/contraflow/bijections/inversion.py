"""Inverses with a report: the solution of every residual block and a bound on the error of the result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.residual import ContractionBlock
from contraflow.numerics import FixedPoint, FixedPointSolver

_M = TypeVar("_M", bound=nn.Module)
# Called with the name of a block, the block, and a copy of it to change.
Change = Callable[[str, ContractionBlock, ContractionBlock], None]


@dataclass(frozen=True)
class BlockInverse:
    """The inverse of one block.

    Attributes:
        name: of the block in the module that was inverted.
        solution: the fixed point with its number of iterations and residual.
        error_bound: on ‖x - x*‖₂ for the input z of the block, ``(batch,)``.
        lipschitz_bound: on Lip(f⁻¹) in the Euclidean norm, the largest factor by which an error in z grows.
    """

    name: str
    solution: FixedPoint
    error_bound: Tensor
    lipschitz_bound: float


@dataclass(frozen=True)
class InverseSolution:
    """x = f⁻¹(z) with bounds on its error.

    Attributes:
        value: x, ``(batch, *event)``.
        blocks: reports of the blocks that were solved in the order of their inversion, from the latent to the data.
        error_bound: on ‖x - f⁻¹(z)‖₂, ``(batch,)``: the error bound of every block, multiplied by the Lipschitz bounds
            of all inverses between it and the data. It is a proof except for rounding errors, and pessimistic by orders
            of magnitude for many blocks; infinite if a layer has no bound.
    """

    value: Tensor
    blocks: tuple[BlockInverse, ...]
    error_bound: Tensor

    @property
    def evaluations(self) -> Tensor:
        """Total number of evaluations of all g for each sample, ``(batch,)``."""
        iterations = (block.solution.iterations for block in self.blocks)
        return sum(iterations, torch.zeros(len(self.value), dtype=torch.long))


@torch.no_grad()
def invert(
    module: Bijection | nn.Module, layers: Bijection, z: Tensor, context: Tensor | None = None
) -> InverseSolution:
    """The inverse of a module with a report; docs/maths/fixed-point-inverse.md derives the error bound.

    The forward direction of implicit and monotone flows is solved too; `invert(Inverse(f), Inverse(f), x)` reports it.

    Args:
        module: the module to invert, a bijection or a flow; reports name blocks by their path in it.
        layers: its layers from the data to the latent.
        z: ``(batch, *event)``.

    Raises:
        InversionError: a block did not reach its tolerance.
    """
    blocks: dict[ContractionBlock, BlockInverse] = {}

    def observe(name: str, block: ContractionBlock, twin: ContractionBlock) -> None:
        twin.observer = lambda solution: blocks.update({block: _report(name, block, solution)})

    value = _twin(module, observe).inverse(z, context)  # type: ignore[operator]
    bound, growth = z.new_zeros(len(z)), 1.0
    for layer in _leaves(layers):
        block = layer.bijection if isinstance(layer, Inverse) else layer
        if isinstance(block, ContractionBlock) and (block is layer or block.solves_forward):
            bound = bound + growth * blocks[block].error_bound
            growth *= blocks[block].lipschitz_bound
        else:
            growth *= layer.inverse_lipschitz_bound()
    return InverseSolution(value, tuple(blocks.values()), bound)


def with_inverse(module: _M, solver: FixedPointSolver) -> _M:
    """A copy of the module whose blocks use another fixed-point solver; parameters and buffers are shared."""

    def change(name: str, block: ContractionBlock, twin: ContractionBlock) -> None:
        twin.solver = solver

    return _twin(module, change)


def _report(name: str, block: ContractionBlock, solution: FixedPoint) -> BlockInverse:
    dimensions = solution.value[0].numel() if len(solution.value) else 1
    norm_ratio = dimensions ** abs(0.5 - 1 / solution.order)  # from the norm of g to the Euclidean norm and back
    lipschitz = norm_ratio * block.solved_lipschitz_bound()
    return BlockInverse(name, solution, block.inverse_error_bound(solution), lipschitz)


def _leaves(bijection: Bijection) -> Iterator[Bijection]:
    """Layers from the data to the latent; joining the factored-out parts of a multi-scale flow adds no error.

    An inverse of several layers is expanded to the inverses of the layers in the opposite order.
    """
    if isinstance(bijection, Inverse) and isinstance(bijection.bijection, (Chain, Inverse, MultiScale)):
        for layer in reversed(list(_leaves(bijection.bijection))):
            yield layer.bijection if isinstance(layer, Inverse) else Inverse(layer)
        return
    parts = bijection if isinstance(bijection, Chain) else bijection.levels if isinstance(bijection, MultiScale) else ()
    if not isinstance(bijection, (Chain, MultiScale)):
        yield bijection
    for part in parts:
        yield from _leaves(part)  # type: ignore[arg-type]


def _twin(module: _M, change: Change, name: str = "") -> _M:
    twin = copy.copy(module)
    if isinstance(module, ContractionBlock):
        change(name, module, cast(ContractionBlock, twin))
    else:
        twin._modules = {
            key: child and _twin(child, change, f"{name}.{key}" if name else key)
            for key, child in module._modules.items()
        }
    return twin
