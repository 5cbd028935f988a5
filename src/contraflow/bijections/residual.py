"""The residual block x + g(x)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ConfigurationError, DomainError, InversionError, unknown_name
from contraflow.logdet import (
    GRADIENTS,
    TRAINING,
    AdaptiveRoulette,
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


class ResidualBlock(Bijection):
    r"""z = x + g(x) with Lip(g) < 1; log|det| = log|det(I + J_g(x))|.

    Invertible by Banach's fixed-point theorem, in the norm that g contracts in: x = z - g(x). Behrmann et al. 2019
    (arXiv:1811.00995); Chen et al. 2019 (arXiv:1906.02735). docs/maths/fixed-point-inverse.md, russian-roulette.md,
    dual-pass-gradient.md.

    Args:
        g: a contraction: `LipschitzMLP`, `LipschitzConvNet`, or `ModuleContraction` around a module of yours.
        logdet: the estimator; see `with_logdet` for the same flow under another one.
        inverse: solver of x = z - g(x).
        gradient: route of the log-determinant's gradient, a name in `contraflow.logdet.GRADIENTS`.

    Raises:
        InversionError: the inverse did not reach its tolerance.
    """

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
                f"{type(g).__name__} is no contraction: it does not inherit from contraflow.logdet.Contraction. "
                "Wrap a plain module in ModuleContraction(module, lipschitz_bound=…)."
            )
        if gradient not in GRADIENTS:
            raise unknown_name("gradient", gradient, GRADIENTS)
        self.g = g
        self.logdet = logdet
        self.solver = inverse if inverse is not None else Anderson()
        self.gradient = gradient
        #: Told of the solution of every inverse; `contraflow.bijections.invert` sets it on a twin.
        self.observer: Callable[[FixedPoint], None] | None = None
        # What an adaptive estimator has learned about this block; None under other estimators. Registered either way,
        # so that `with_logdet` can put one into a twin without touching the original.
        self.register_module("decay", SeriesDecay() if isinstance(logdet, AdaptiveRoulette) else None)

    @property
    def estimator_name(self) -> str:  # type: ignore[override]
        return str(self.logdet)

    def adopt(self, logdet: LogDetEstimator) -> None:
        """Use another estimator; where the block has learned nothing yet and it is adaptive, begin to."""
        self.logdet = logdet
        if isinstance(logdet, AdaptiveRoulette) and self.decay is None:
            # A dict of its own: the one at hand is shared with the original.
            self._modules = {**self._modules, "decay": SeriesDecay().to(next(self.parameters(), torch.empty(0)))}

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
        if transforms_active():
            raise ConfigurationError(
                "torch.func cannot go through a fixed-point inverse, which looks at its residuals: use torch.autograd, "
                "and a batch instead of vmap."
            )
        return _Solve.apply(self, z, *self.g.tensors())

    def _value_and_logdet(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """g(x) and log|det(I + J_g(x))|."""
        estimator = self.logdet
        if isinstance(estimator, AdaptiveRoulette) and self.decay is not None:
            estimator = estimator.following(self.decay, learn=self.training and torch.is_grad_enabled())
        route = functional if transforms_active() else GRADIENTS[self.gradient]
        return route(self.g, estimator, x, generator)

    def solve(self, z: Tensor) -> FixedPoint:
        """x = z - g(x) with iterations, true residual and error bound; raises nothing."""
        with torch.no_grad():
            tensors = self.g.tensors()
            return self._solve(tensors, z)

    def _solve(self, tensors: Sequence[Tensor], z: Tensor) -> FixedPoint:
        bound = self.g.lipschitz_bound()
        g = self.g.function(tensors)
        return self.solver.solve(lambda x, rows: z[rows] - g(x), z, self.g.norm_order, bound)

    def inverse_error_bound(self, found: FixedPoint) -> Tensor:
        """‖x - x*‖₂ <= D^{max(0, 1/2 - 1/p)} residual / (1 - L) of every sample; ``(batch,)``.

        L is the bound of g in the norm ‖·‖_p that it contracts in; the first factor, 1 for p <= 2, leads from there to
        the Euclidean norm. In ‖·‖_p itself the bound is `FixedPoint.error_bound`.
        """
        dimensions = found.value[0].numel() if len(found.value) else 1
        return found.error_bound(self.g.lipschitz_bound()) * dimensions ** max(0.0, 0.5 - 1 / found.order)


class _Solve(torch.autograd.Function):
    """The inverse, differentiated by the implicit function theorem: x̄ ↦ z̄ = (I + Jᵀ)⁻¹x̄, θ̄ = -(∂g/∂θ)ᵀz̄.

    docs/maths/fixed-point-inverse.md.
    """

    @staticmethod
    def forward(ctx: Any, block: ResidualBlock, z: Tensor, *tensors: Tensor) -> Tensor:
        found = block._solve(tensors, z)
        _raise_unless_converged(block, found, "the inverse of a residual block")
        if block.observer is not None:
            block.observer(found)
        ctx.block = block
        ctx.save_for_backward(found.value, *tensors)
        return found.value

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        block: ResidualBlock = ctx.block
        twice = torch.is_grad_enabled()  # a backward pass under create_graph
        grad_z = _SolveAdjoint.apply(block, x, grad_x, *tensors)
        wanted = ctx.needs_input_grad[2:]
        if twice:
            tensors = [alias(one) for one in tensors]
        else:
            x = x.detach()
            tensors = [one.detach().requires_grad_(need) for one, need in zip(tensors, wanted, strict=True)]
        asked = [one for one, need in zip(tensors, wanted, strict=True) if need]
        with torch.enable_grad():
            gx = block.g.value(tensors, x)
            found = torch.autograd.grad(gx, asked, -grad_z, create_graph=twice, allow_unused=True) if asked else ()
        grads = iter(found)
        return None, grad_z, *(next(grads) if need else None for need in wanted)


class _SolveAdjoint(torch.autograd.Function):
    """x, x̄ ↦ z̄ = (I + Jᵀ)⁻¹x̄, the fixed point of z̄ = x̄ - Jᵀz̄, a contraction in the dual norm.

    Its own gradient, with m = (I + J)⁻¹w for the upstream gradient w: m to x̄, and -∂⟨J m, z̄⟩ to x and the tensors.
    """

    @staticmethod
    def forward(ctx: Any, block: ResidualBlock, x: Tensor, grad_x: Tensor, *tensors: Tensor) -> Tensor:
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            gx = block.g.value([one.detach() for one in tensors], start)

        def pull(u: Tensor, rows: Tensor) -> Tensor:
            full = torch.zeros_like(grad_x)
            full[rows] = u
            return torch.autograd.grad(gx, start, full, retain_graph=True)[0][rows]

        order = float(dual_order(block.g.norm_order))
        grad_z = _solve_linear(block, pull, grad_x, order, "the gradient through an inverse residual block")
        ctx.block = block
        ctx.save_for_backward(x, grad_z, *tensors)
        return grad_z

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ConfigurationError("the inverse of a residual block has first and second derivatives, no third ones.")
        x, grad_z, *tensors = ctx.saved_tensors
        block: ResidualBlock = ctx.block

        def push(u: Tensor, rows: Tensor) -> Tensor:
            return block.g.dual(tensors, x[rows], u[None])[1][0]

        what = "the second derivative of an inverse residual block"
        m = _solve_linear(block, push, w, block.g.norm_order, what)
        wanted = ctx.needs_input_grad[1], *ctx.needs_input_grad[3:]
        with torch.enable_grad():
            inputs = [one.detach().requires_grad_(need) for one, need in zip((x, *tensors), wanted, strict=True)]
            _, products = block.g.dual(inputs[1:], inputs[0], m[None])
            asked = [one for one in inputs if one.requires_grad]
            found = torch.autograd.grad(products, asked, -grad_z[None], allow_unused=True) if asked else ()
        grads = iter(found)
        of_x, *of_tensors = (next(grads) if one.requires_grad else None for one in inputs)
        return None, of_x, m, *of_tensors


def _solve_linear(
    block: ResidualBlock, product: Callable[[Tensor, Tensor], Tensor], right: Tensor, order: float, what: str
) -> Tensor:
    """u = right - A u for u, rows ↦ (A u)[rows] with ‖A‖ <= L in ‖·‖_order."""
    # The caller's gradients may be tiny (a mean over many samples), so the tolerance is on their scale.
    scale = right.flatten(1).norm(dim=1).max().clamp_min(torch.finfo(right.dtype).tiny)
    target = right / scale
    bound = block.g.lipschitz_bound()
    found = block.solver.solve(lambda u, rows: target[rows] - product(u, rows), target, order, bound)
    _raise_unless_converged(block, found, what)
    return found.value * scale


def _raise_unless_converged(block: ResidualBlock, found: FixedPoint, what: str) -> None:
    if bool(found.converged.all()):
        return
    worst = int(torch.nan_to_num(found.residual, nan=torch.inf).argmax())
    solver = block.solver
    tolerance = solver.tolerance_for(found.value.dtype)
    error = InversionError(
        f"{what} did not reach its tolerance: sample {worst} stands at a residual of "
        f"{found.residual[worst].item():.3g} after {int(found.iterations[worst])} iterations "
        f"({int((~found.converged).sum())} of {len(found.converged)} samples; root-mean-square tolerance "
        f"{tolerance:.3g}; Lipschitz bound of g {block.g.lipschitz_bound():.4f}). "
        "Raise max_iterations, compute in float64 (flow.double()), or loosen the tolerance; "
        "a Lipschitz bound of 1 or more means that the inverse need not exist."
    )
    error.block = block
    raise error
