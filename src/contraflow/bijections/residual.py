"""The residual block z = x + g(x), and what all blocks around a contraction share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ConfigurationError, DomainError, InversionError, unknown_name
from contraflow.logdet import (
    GRADIENTS,
    RESIDUAL,
    TRAINING,
    AdaptiveRoulette,
    Determinant,
    LogDetEstimator,
    SeriesDecay,
    functional,
)
from contraflow.numerics import (
    Anderson,
    Contraction,
    FixedPoint,
    FixedPointSolver,
    alias,
    dual_order,
    transforms_active,
)


class ContractionBlock(Bijection):
    """A map built from one contraction g, with Lip(g) < 1, that solves a fixed-point equation in a direction or both.

    Args:
        g: a contraction: `LipschitzMLP`, `LipschitzConvNet`, or `ModuleContraction` around a module of your own.
        logdet: estimator of the log-determinant; `with_logdet` makes a copy of a flow with another one.
        inverse: solver of the fixed-point equation.
        gradient: how the gradient of the log-determinant is computed, a name in `contraflow.logdet.GRADIENTS`.

    Raises:
        DomainError: g is not a `Contraction`.
        ConfigurationError: the name of the gradient is unknown.

    Attributes:
        solved: what the fixed point is, for error messages.
        solves_forward: whether the forward direction is solved too, not only the inverse.
    """

    solved: str
    solves_forward: bool = False
    decay: SeriesDecay | None

    def __init__(
        self,
        g: Contraction,
        logdet: LogDetEstimator = TRAINING,
        inverse: FixedPointSolver | None = None,
        gradient: str = "dual",
    ) -> None:
        super().__init__()
        if not isinstance(g, Contraction):
            raise DomainError(
                f"{type(g).__name__} is not a contraction: it does not inherit from contraflow.logdet.Contraction. "
                "Wrap a plain module in ModuleContraction(module, lipschitz_bound=…)."
            )
        if gradient not in GRADIENTS:
            raise unknown_name("gradient", gradient, GRADIENTS)
        self.g = g
        self.logdet = logdet
        self.solver = inverse if inverse is not None else Anderson()
        self.gradient = gradient
        #: Called with the solution of every inverse; `contraflow.bijections.invert` sets it on a copy of the block.
        self.observer: Callable[[FixedPoint], None] | None = None
        # Statistics of an adaptive estimator; None under other estimators. The name is registered in both cases, so
        # that `with_logdet` can set it on a copy without changing the original.
        self.register_module("decay", SeriesDecay() if isinstance(logdet, AdaptiveRoulette) else None)

    @property
    def estimator_name(self) -> str:  # type: ignore[override]
        return str(self.logdet)

    def adopt(self, logdet: LogDetEstimator) -> None:
        """Use another estimator; an adaptive one starts with empty statistics unless the block already has some."""
        self.logdet = logdet
        if isinstance(logdet, AdaptiveRoulette) and self.decay is None:
            # A new dict, because the current one is shared with the original block.
            self._modules = {**self._modules, "decay": SeriesDecay().to(next(self.parameters(), torch.empty(0)))}

    def _value_and_logdet(
        self, x: Tensor, generator: Generator | None, determinant: Determinant = RESIDUAL
    ) -> tuple[Tensor, Tensor]:
        """g(x) and the log-determinant of a function of J_g(x), by default log|det(I + J_g(x))|."""
        estimator = self.logdet
        if isinstance(estimator, AdaptiveRoulette) and self.decay is not None:
            estimator = estimator.following(self.decay, learn=self.training and torch.is_grad_enabled())
        value_and_logdet = functional if transforms_active() else GRADIENTS[self.gradient]
        return value_and_logdet(self.g, estimator.of(determinant), x, generator)

    def _fixed_point(self, g: Contraction, z: Tensor) -> Tensor:
        """The x with x + g(x) = z, differentiable; g is this block's contraction or its negative."""
        if transforms_active():
            raise ConfigurationError(
                "torch.func cannot transform a fixed-point inverse, whose iterations depend on residuals: use "
                "torch.autograd, and a batch instead of vmap."
            )
        return _Solve.apply(self, g, z, *g.tensors())

    def _solve(self, g: Contraction, tensors: Sequence[Tensor], z: Tensor) -> FixedPoint:
        function = g.function(tensors)
        return self.solver.solve(lambda x, rows: z[rows] - function(x), z, g.norm_order, g.lipschitz_bound())

    def inverse_error_bound(self, solution: FixedPoint) -> Tensor:
        """An upper bound on ‖x - x*‖₂ for every sample, D^{max(0, 1/2 - 1/p)} · residual / (1 - L), ``(batch,)``.

        L is the Lipschitz bound of g in the norm ‖·‖_p in which it is a contraction. The first factor, which is 1 for
        p <= 2, converts from ‖·‖_p to the Euclidean norm. `FixedPoint.error_bound` is the bound in ‖·‖_p.
        """
        dimensions = solution.value[0].numel() if len(solution.value) else 1
        return solution.error_bound(self.g.lipschitz_bound()) * dimensions ** max(0.0, 0.5 - 1 / solution.order)

    @abstractmethod
    def solved_lipschitz_bound(self) -> float:
        """An upper bound on the Lipschitz constant of a solved direction in the norm of g; infinity if L >= 1."""


class ResidualBlock(ContractionBlock):
    r"""z = x + g(x) with Lip(g) < 1; log|det| = log|det(I + J_g(x))|.

    The inverse is the fixed point x = z - g(x), which is unique by Banach's theorem in the norm in which g is a
    contraction. Behrmann et al. 2019 (arXiv:1811.00995); Chen et al. 2019 (arXiv:1906.02735).
    docs/maths/fixed-point-inverse.md, russian-roulette.md, dual-pass-gradient.md.

    Args:
        g: a contraction: `LipschitzMLP`, `LipschitzConvNet`, or `ModuleContraction` around a module of your own.
        logdet: estimator of the log-determinant; `with_logdet` makes a copy of a flow with another one.
        inverse: solver of x = z - g(x).
        gradient: how the gradient of the log-determinant is computed, a name in `contraflow.logdet.GRADIENTS`.

    Raises:
        DomainError: g is not a `Contraction`.
        ConfigurationError: the name of the gradient is unknown.
        InversionError: the inverse did not reach its tolerance.
    """

    solved = "the inverse of a residual block"

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        gx, logdet = self._value_and_logdet(x, generator)
        return x + gx, logdet

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return x + self.g.value(self.g.tensors(), x)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.inverse(z, context)
        _, logdet = self._value_and_logdet(x, generator)
        return x, -logdet

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._fixed_point(self.g, z)

    def solve(self, z: Tensor) -> FixedPoint:
        """The fixed point of x = z - g(x), with its iterations and true residual, also if it has not converged."""
        with torch.no_grad():
            return self._solve(self.g, self.g.tensors(), z)

    def solved_lipschitz_bound(self) -> float:
        """1/(1 - L), for the inverse; infinity if L >= 1."""
        bound = self.g.lipschitz_bound()
        return 1 / (1 - bound) if bound < 1 else math.inf

    def forward_lipschitz_bound(self) -> float:
        return 1 + self.g.lipschitz_bound() if self.g.norm_order == 2 else math.inf


class _Solve(torch.autograd.Function):
    """The inverse, differentiated by the implicit function theorem: x̄ ↦ z̄ = (I + Jᵀ)⁻¹x̄, θ̄ = -(∂g/∂θ)ᵀz̄.

    docs/maths/fixed-point-inverse.md.
    """

    @staticmethod
    def forward(ctx: Any, block: ContractionBlock, g: Contraction, z: Tensor, *tensors: Tensor) -> Tensor:
        solution = block._solve(g, tensors, z)
        _raise_unless_converged(block, solution, block.solved)
        if block.observer is not None:
            block.observer(solution)
        ctx.block, ctx.g = block, g
        ctx.save_for_backward(solution.value, *tensors)
        return solution.value

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        g: Contraction = ctx.g
        create_graph = torch.is_grad_enabled()  # the caller differentiates this backward pass
        grad_z = _SolveAdjoint.apply(ctx.block, g, x, grad_x, *tensors)
        needs_grad = ctx.needs_input_grad[3:]
        if create_graph:
            tensors = [alias(tensor) for tensor in tensors]
        else:
            x = x.detach()
            tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needs_grad, strict=True)]
        inputs = [tensor for tensor, need in zip(tensors, needs_grad, strict=True) if need]
        with torch.enable_grad():
            gx = g.value(tensors, x)
            grads = (
                torch.autograd.grad(gx, inputs, -grad_z, create_graph=create_graph, allow_unused=True) if inputs else ()
            )
        remaining = iter(grads)
        return None, None, grad_z, *(next(remaining) if need else None for need in needs_grad)


class _SolveAdjoint(torch.autograd.Function):
    """x, x̄ ↦ z̄ = (I + Jᵀ)⁻¹x̄, the fixed point of z̄ = x̄ - Jᵀz̄, which is a contraction in the dual norm.

    For the upstream gradient w and m = (I + J)⁻¹w, the gradient to x̄ is m, and the gradients to x and the tensors are
    those of -⟨J m, z̄⟩.
    """

    @staticmethod
    def forward(
        ctx: Any, block: ContractionBlock, g: Contraction, x: Tensor, grad_x: Tensor, *tensors: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            gx = g.value([tensor.detach() for tensor in tensors], start)

        def pull(u: Tensor, rows: Tensor) -> Tensor:
            full = torch.zeros_like(grad_x)
            full[rows] = u
            return torch.autograd.grad(gx, start, full, retain_graph=True)[0][rows]

        order = float(dual_order(g.norm_order))
        grad_z = _solve_linear(block, pull, grad_x, order, f"the gradient through {block.solved}")
        ctx.block, ctx.g = block, g
        ctx.save_for_backward(x, grad_z, *tensors)
        return grad_z

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ConfigurationError(f"{ctx.block.solved} has first and second derivatives, no third ones.")
        x, grad_z, *tensors = ctx.saved_tensors
        g: Contraction = ctx.g

        def push(u: Tensor, rows: Tensor) -> Tensor:
            return g.dual(tensors, x[rows], u[None])[1][0]

        m = _solve_linear(ctx.block, push, w, g.norm_order, f"the second derivative of {ctx.block.solved}")
        needs_grad = ctx.needs_input_grad[2], *ctx.needs_input_grad[4:]
        with torch.enable_grad():
            leaves = [
                tensor.detach().requires_grad_(need) for tensor, need in zip((x, *tensors), needs_grad, strict=True)
            ]
            _, products = g.dual(leaves[1:], leaves[0], m[None])
            inputs = [leaf for leaf in leaves if leaf.requires_grad]
            grads = torch.autograd.grad(products, inputs, -grad_z[None], allow_unused=True) if inputs else ()
        remaining = iter(grads)
        of_x, *of_tensors = (next(remaining) if need else None for need in needs_grad)
        return None, None, of_x, m, *of_tensors


def _solve_linear(
    block: ContractionBlock, product: Callable[[Tensor, Tensor], Tensor], right: Tensor, order: float, what: str
) -> Tensor:
    """The solution u of u = right - A u, where product(u, rows) = (A u)[rows] and ‖A‖ <= L in ‖·‖_order."""
    # The upstream gradients may be tiny (a mean over many samples), so the tolerance is relative to their size.
    scale = right.flatten(1).norm(dim=1).max().clamp_min(torch.finfo(right.dtype).tiny)
    target = right / scale
    bound = block.g.lipschitz_bound()
    solution = block.solver.solve(lambda u, rows: target[rows] - product(u, rows), target, order, bound)
    _raise_unless_converged(block, solution, what)
    return solution.value * scale


def _raise_unless_converged(block: ContractionBlock, solution: FixedPoint, what: str) -> None:
    if bool(solution.converged.all()):
        return
    worst = int(torch.nan_to_num(solution.residual, nan=torch.inf).argmax())
    tolerance = block.solver.tolerance_for(solution.value.dtype)
    error = InversionError(
        f"{what} did not reach its tolerance: the residual of sample {worst} is "
        f"{solution.residual[worst].item():.3g} after {int(solution.iterations[worst])} iterations "
        f"({int((~solution.converged).sum())} of {len(solution.converged)} samples did not converge; root-mean-square "
        f"tolerance {tolerance:.3g}; Lipschitz bound of g {block.g.lipschitz_bound():.4f}). "
        "Raise max_iterations, compute in float64 (flow.double()), or loosen the tolerance. "
        "If the Lipschitz bound is 1 or more, the inverse may not exist."
    )
    error.block = block
    raise error
