"""What the log-determinant asks of g in x + g(x)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from contraflow.errors import DomainError

# u ↦ Jᵀu for the first rows of the batch: takes (probes, rows, *event) with rows <= batch
Vjp = Callable[[Tensor], Tensor]


@runtime_checkable
class Contraction(Protocol):
    """A map g of the data space into itself with Lip(g) < 1, and its first derivative.

    Everything is a function of x and of `tensors()`, so that gradients can be asked for by name: see
    docs/maths/dual-pass-gradient.md.

    A g that is bounded in another norm ‖·‖_p than the Euclidean one says so by an attribute ``norm_order`` = p.
    """

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that g depends on: weights, their scales, biases, activation parameters."""

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """g(x), ``(batch, *event)``; plain torch operations, twice differentiable."""

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """g(x) and u ↦ J_g(x)ᵀu; called without gradients."""

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """g(x) and J_g(x) t for tangents t ``(probes, batch, *event)``; differentiable once."""

    def lipschitz_bound(self) -> float:
        """A number L with ‖g(x) - g(y)‖ <= L ‖x - y‖, from above; Euclidean, or of the order ``norm_order``."""


class ModuleContraction(nn.Module):
    """Any `nn.Module` of yours as g, with the Lipschitz bound that you vouch for. See docs/extending.md.

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

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        return functional_linearize(self, tensors, x)

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        # torch.func.jvp gives no parameter gradients inside autograd, so J t is the derivative of Jᵀu in u.
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            gx = self.value(tensors, x)
            u = torch.zeros_like(gx, requires_grad=True)
            (jtu,) = torch.autograd.grad(gx, x, u, create_graph=True)
            columns = [torch.autograd.grad(jtu, u, one, create_graph=True)[0] for one in t]
        return gx, torch.stack(columns)

    def lipschitz_bound(self) -> float:
        return self._bound


def functional_linearize(g: Contraction, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
    """g(x) and u ↦ J_g(x)ᵀu by `torch.func.vjp`, which other transforms of `torch.func` go through."""
    gx, pullback = torch.func.vjp(lambda x: g.value(tensors, x), x)  # type: ignore[misc]

    def vjp(u: Tensor) -> Tensor:
        missing = gx.shape[0] - u.shape[1]
        padded = torch.cat([u, u.new_zeros(u.shape[0], missing, *u.shape[2:])], dim=1) if missing else u
        return torch.stack([pullback(one)[0] for one in padded])[:, : u.shape[1]]

    return gx, vjp
