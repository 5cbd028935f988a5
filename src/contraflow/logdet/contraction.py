"""A module of yours as g in x + g(x)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contraflow.errors import DomainError
from contraflow.numerics import Contraction


class ModuleContraction(nn.Module, Contraction):
    """Any `nn.Module` of yours as g, with the Lipschitz bound that you assert. See docs/extending.md.

    Derivatives come from `torch.func`, so the module has to be functional: no in-place change of buffers.

    Args:
        module: maps ``(batch, *event)`` to the same shape, sample by sample.
        lipschitz_bound: L with ‖g(x) - g(y)‖₂ <= L‖x - y‖₂; at or above 1 it is refused.

    Raises:
        DomainError: the bound is not in [0, 1).

    >>> g = ModuleContraction(nn.Tanh(), lipschitz_bound=0.99)
    >>> g(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, module: nn.Module, lipschitz_bound: float) -> None:
        super().__init__()
        if not 0 <= lipschitz_bound < 1:
            raise DomainError(
                f"lipschitz_bound={lipschitz_bound}: x + g(x) is invertible for bounds in [0, 1). "
                "Scale the output of your module down."
            )
        self.module = module
        self._bound = float(lipschitz_bound)
        self._names = tuple(name for name, _ in module.named_parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.module.parameters())

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self.module, dict(zip(self._names, tensors, strict=True)), (x,))

    def lipschitz_bound(self) -> float:
        return self._bound
