"""The interface of a contraction g that log-determinants and inverses of x + g(x) use."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from contraflow.errors import DomainError


class Vjp:
    """u ↦ Jᵀu for the first rows of the batch that J was taken at.

    Args:
        product: takes and returns ``(probes, rows, *event)`` with rows <= batch.
    """

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self._product = product

    def __call__(self, u: Tensor) -> Tensor:
        return self._product(u)

    def lowered(self, dtype: torch.dtype) -> Vjp:
        """The same map with its products computed in `dtype`; inputs and outputs keep theirs.

        Raises:
            DomainError: the contraction computes its products in one dtype only.
        """
        raise DomainError(
            f"series_dtype={dtype}: this contraction computes its products in one dtype; leave series_dtype out."
        )


class Contraction(ABC):
    """A map g of the data space into itself with Lip(g) < 1, and its first derivatives.

    Everything is a function of x and of `tensors()`, so that gradients with respect to each of them can be computed:
    docs/maths/dual-pass-gradient.md. A subclass defines `tensors`, `value` and `lipschitz_bound`. The other methods use
    automatic differentiation; a subclass overrides them where a closed form is faster.

    Attributes:
        norm_order: p of the norm ‖·‖_p in which g is bounded.
    """

    norm_order: float = 2.0

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that g depends on: weights, their scales, biases, activation parameters."""

    @abstractmethod
    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """g(x), ``(batch, *event)``, in torch operations that are twice differentiable."""

    @abstractmethod
    def lipschitz_bound(self) -> float:
        """A number L with ‖g(x) - g(y)‖_p <= L ‖x - y‖_p, p = `norm_order`, from above."""

    def function(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """x ↦ g(x) for many calls with the same tensors, as the inverse needs it; precomputes what it can."""
        return functools.partial(self.value, tensors)

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """g(x) and u ↦ J_g(x)ᵀu; called without gradients."""
        return functional_linearize(self, tensors, x)

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """g(x) and J_g(x) t for tangents t ``(probes, batch, *event)``; differentiable once."""
        # torch.func.jvp gives no parameter gradients inside autograd, so J t is the derivative of Jᵀu in u.
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            gx = self.value(tensors, x)
            u = torch.zeros_like(gx, requires_grad=True)
            (jtu,) = torch.autograd.grad(gx, x, u, create_graph=True)
            columns = [torch.autograd.grad(jtu, u, tangent, create_graph=True)[0] for tangent in t]
        return gx, torch.stack(columns)

    def linearize_kept(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp, tuple[Tensor | None, ...]]:
        """What `linearize` returns, and the tensors that `kept_gradient` reuses: none, unless overridden."""
        return *self.linearize(tensors, x), ()

    def kept_gradient(
        self,
        tensors: Sequence[Tensor],
        kept: Sequence[Tensor | None],
        x: Tensor,
        grad_gx: Tensor,
        probes: Tensor,
        adjoints: Tensor,
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of ⟨ḡ, g(x)⟩ + Σ_p ⟨w_p, J v_p⟩ with respect to x and the tensors; None where not `wanted`.

        Args:
            tensors, x: the arguments of `linearize_kept`.
            kept: the tensors that it returned.
            grad_gx: ḡ ``(batch, *event)``.
            probes, adjoints: v and w ``(probes, batch, *event)``.
            wanted: whether to compute the gradient, for x and each of the tensors.
        """
        return dual_gradient(self, tensors, x, grad_gx, probes, adjoints, wanted)


def dual_gradient(
    g: Contraction,
    tensors: Sequence[Tensor],
    x: Tensor,
    grad_gx: Tensor,
    probes: Tensor,
    adjoints: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """`Contraction.kept_gradient` by one dual pass and its first-order gradient, without any kept tensors."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip((x, *tensors), wanted, strict=True)]
        gx, products = g.dual(inputs[1:], inputs[0], probes)
        requested = [tensor for tensor in inputs if tensor.requires_grad]
        derivatives = iter(torch.autograd.grad([gx, products], requested, [grad_gx, adjoints], allow_unused=True))
    return [next(derivatives) if tensor.requires_grad else None for tensor in inputs]


def functional_linearize(g: Contraction, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
    """g(x) and u ↦ J_g(x)ᵀu by `torch.func.vjp`, which composes with other transforms of `torch.func`."""
    gx, pullback = torch.func.vjp(lambda x: g.value(tensors, x), x)  # type: ignore[misc]

    def product(u: Tensor) -> Tensor:
        missing = gx.shape[0] - u.shape[1]
        padded = torch.cat([u, u.new_zeros(u.shape[0], missing, *u.shape[2:])], dim=1) if missing else u
        return torch.stack([pullback(cotangent)[0] for cotangent in padded])[:, : u.shape[1]]

    return gx, Vjp(product)
