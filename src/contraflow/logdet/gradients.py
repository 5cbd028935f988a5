"""Five ways (routes) to compute the gradient of log|det(I + J_g)|.

Use `dual`, or `kept` where memory allows. The others are the paper's: they serve its memory and ablation tables, and
tests compare with them. All return g(x) and the same estimate of the log-determinant; they differ in what they store
and in the estimator of the gradient. Derivations: docs/maths/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError
from contraflow.logdet.estimators import Estimate, Exact, LogDetEstimator, unit_vectors
from contraflow.numerics import Contraction, Vjp, alias, dual_gradient, functional_linearize

Route = Callable[[Contraction, LogDetEstimator, Tensor, Generator | None], tuple[Tensor, Tensor]]


def dual(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Without double backward; stores x, probes and adjoints, and nothing of hidden width."""
    return _Dual.apply(g, estimator, generator, x, *g.tensors())


class _Dual(torch.autograd.Function):
    """docs/maths/dual-pass-gradient.md."""

    @staticmethod
    def forward(
        ctx: Any, g: Contraction, estimator: LogDetEstimator, generator: Generator | None, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        estimate = estimator.estimate(lambda x: g.linearize(tensors, x), x, generator)
        ctx.g, ctx.again = g, estimate.again
        ctx.save_for_backward(x, estimate.probes, estimate.adjoints, *tensors)
        return estimate.gx, estimate.value

    @staticmethod
    def backward(ctx: Any, grad_gx: Tensor, grad_logdet: Tensor) -> tuple[Tensor | None, ...]:
        x, probes, adjoints, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, *_twice_differentiable(ctx, x, tensors, grad_gx, grad_logdet)
        weights = grad_logdet.reshape(1, -1, *[1] * (x.ndim - 1))
        wanted = ctx.needs_input_grad[3:]
        grads = dual_gradient(ctx.g, tensors, x, grad_gx, probes, weights * adjoints, wanted)
        return None, None, None, *grads


def kept(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of `dual` with the activations of the forward pass kept: faster, for memory of hidden width.

    It saves one evaluation of g a step, and D + 1 with `Exact`, which then pushes D tangents forward. A g that keeps
    nothing (a `ModuleContraction`) has the backward pass of `dual`.
    """
    if not torch.is_grad_enabled():
        return dual(g, estimator, x, generator)
    if isinstance(estimator, Exact):
        return _exact_by_tangents(g, x)
    return _Kept.apply(g, estimator, generator, x, *g.tensors())


def _exact_by_tangents(g: Contraction, x: Tensor) -> tuple[Tensor, Tensor]:
    """g(x) and log|det(I + J)| from the columns J e_j, all in one dual pass."""
    gx, columns = g.dual(g.tensors(), x, unit_vectors(x))
    matrix = columns.flatten(2).permute(1, 2, 0) + torch.eye(len(columns), dtype=x.dtype, device=x.device)
    return gx, torch.linalg.slogdet(matrix).logabsdet


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Contraction, estimator: LogDetEstimator, generator: Generator | None, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept: tuple[Tensor | None, ...] = ()

        def linearize(x: Tensor) -> tuple[Tensor, Vjp]:
            nonlocal kept
            gx, vjp, kept = g.linearize_kept(tensors, x)
            return gx, vjp

        estimate = estimator.estimate(linearize, x, generator)
        ctx.g, ctx.again, ctx.count = g, estimate.again, len(tensors)
        ctx.save_for_backward(x, estimate.probes, estimate.adjoints, estimate.order, *tensors, *kept)
        return estimate.gx, estimate.value

    @staticmethod
    def backward(ctx: Any, grad_gx: Tensor, grad_logdet: Tensor) -> tuple[Tensor | None, ...]:
        x, probes, adjoints, order, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, *_twice_differentiable(ctx, x, saved[: ctx.count], grad_gx, grad_logdet)
        adjoints = adjoints * grad_logdet.reshape(1, -1, *[1] * (x.ndim - 1))
        if order is not None:
            x, grad_gx, probes, adjoints = x[order], grad_gx[order], probes[:, order], adjoints[:, order]
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        wanted = ctx.needs_input_grad[3:]
        grad_x, *grads = ctx.g.kept_gradient(tensors, kept, x, grad_gx, probes, adjoints, wanted)
        if grad_x is not None and order is not None:
            grad_x = grad_x[order.argsort()]
        return None, None, None, grad_x, *grads


def series(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Double backward through every term: memory grows with hidden width times the number of terms."""
    tensors = g.tensors()
    if not _wanted(x, tensors):
        return _without_gradient(g, tensors, estimator, x, generator)
    estimate = estimator.estimate(lambda x: _linearize(g, tensors, x, create_graph=True), _attached(x), generator)
    return estimate.gx, estimate.value


def neumann(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Theorem 2 with the graph of g kept: memory grows with hidden width, not with the number of terms."""
    tensors = g.tensors()
    if not _wanted(x, tensors):
        return _without_gradient(g, tensors, estimator, x, generator)
    estimate = _detached_estimate(g, tensors, estimator, x, generator)
    start = _attached(x)
    gx = g.value(tensors, start)
    surrogate = _surrogate(gx, start, estimate)
    return gx, _Neumann.apply(g, estimate, surrogate, x, *tensors)


class _Neumann(torch.autograd.Function):
    """The estimate's value with the surrogate's gradient."""

    @staticmethod
    def forward(ctx: Any, g: Contraction, estimate: Estimate, surrogate: Tensor, x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.g, ctx.again = g, estimate.again
        ctx.save_for_backward(x, *tensors)
        return estimate.value.clone()

    @staticmethod
    def backward(ctx: Any, grad_logdet: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, *_twice_differentiable(ctx, x, tensors, None, grad_logdet)
        return None, None, grad_logdet, *[None] * (1 + len(tensors))


def backward_in_forward(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The paper's memory-efficient scheme: the log-determinant's gradients are taken in the forward pass.

    They are stored as one sum over the batch, which is right when all samples have the same weight; otherwise the
    backward pass computes them again with the weights. (Five public codes use the first sample's weight instead.)
    """
    tensors = g.tensors()
    if not _wanted(x, tensors):
        return _without_gradient(g, tensors, estimator, x, generator)
    return g.value(tensors, x), _BackwardInForward.apply(g, estimator, generator, x, *tensors)


class _BackwardInForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Contraction, estimator: LogDetEstimator, generator: Generator | None, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        estimate = _detached_estimate(g, tensors, estimator, x, generator)
        wanted = ctx.needs_input_grad[3:]
        grads = _surrogate_gradient(g, wanted, x, tensors, estimate, torch.ones_like(estimate.value))
        ctx.g, ctx.again, ctx.gx, ctx.value = g, estimate.again, estimate.gx, estimate.value
        ctx.present = [grad is not None for grad in grads]
        ctx.count = len(tensors)
        kept = [grad for grad in grads if grad is not None]
        ctx.save_for_backward(x, estimate.probes, estimate.adjoints, *tensors, *kept)
        return estimate.value

    @staticmethod
    def backward(ctx: Any, grad_logdet: Tensor) -> tuple[Tensor | None, ...]:
        x, probes, adjoints, *rest = ctx.saved_tensors
        tensors, kept = rest[: ctx.count], iter(rest[ctx.count :])
        if torch.is_grad_enabled():
            return None, None, None, *_twice_differentiable(ctx, x, tensors, None, grad_logdet)
        if bool((grad_logdet == grad_logdet[:1]).all()):
            grads = [next(kept) * grad_logdet[0] if present else None for present in ctx.present]
        else:
            estimate = Estimate(ctx.gx, ctx.value, probes, adjoints)
            grads = _surrogate_gradient(ctx.g, ctx.needs_input_grad[3:], x, tensors, estimate, grad_logdet)
        return None, None, None, *grads


def _surrogate_gradient(
    g: Contraction,
    wanted: Sequence[bool],
    x: Tensor,
    tensors: Sequence[Tensor],
    estimate: Estimate,
    weights: Tensor,
) -> list[Tensor | None]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip((x, *tensors), wanted, strict=True)]
        start = _attached(inputs[0])
        surrogate = _surrogate(g.value(inputs[1:], start), start, estimate)
        requested = [tensor for tensor in inputs if tensor.requires_grad]
        derivatives = iter(torch.autograd.grad(surrogate, requested, weights, allow_unused=True))
    return [next(derivatives) if tensor.requires_grad else None for tensor in inputs]


def _surrogate(gx: Tensor, x: Tensor, estimate: Estimate) -> Tensor:
    """Σ_p ⟨w_p, J v_p⟩ of every sample, by autograd: its gradient is that of the log-determinant."""
    total = torch.zeros_like(estimate.value)
    for v, w in zip(estimate.probes, estimate.adjoints, strict=True):
        (product,) = torch.autograd.grad(gx, x, w, create_graph=True)
        total = total + (product * v).flatten(1).sum(dim=1)
    return total


def _twice_differentiable(
    ctx: Any, x: Tensor, tensors: Sequence[Tensor], grad_gx: Tensor | None, grad_logdet: Tensor
) -> list[Tensor | None]:
    """Gradients that have a graph of their own, for a backward pass under ``create_graph``; None where not wanted.

    The estimate is computed again with the same draws, by autograd through every term. Its gradient is that of the
    value, term by term: it is as unbiased as the route's own and has the Hessian of the value.
    """
    if ctx.again is None:
        raise ConfigurationError(
            "this estimator of the log-determinant has no second derivatives, because its Estimate has no `again`. "
            "Use flow.with_logdet(Exact()), or a residual flow with gradient='series'."
        )
    wanted = ctx.needs_input_grad[-1 - len(tensors) :]
    start, *inputs = aliases = [_attached(alias(x)), *map(alias, tensors)]
    estimate = ctx.again(lambda rows: _linearize(ctx.g, inputs, rows, create_graph=True), start)
    outputs, cotangents = [estimate.value], [grad_logdet]
    if grad_gx is not None:
        outputs, cotangents = [estimate.gx, *outputs], [grad_gx, *cotangents]
    requested = [tensor for tensor, need in zip(aliases, wanted, strict=True) if need]
    derivatives = iter(torch.autograd.grad(outputs, requested, cotangents, create_graph=True, allow_unused=True))
    return [next(derivatives) if need else None for need in wanted]


def _wanted(x: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether a gradient is needed, which is not so for frozen weights at a fixed x."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *tensors))


def _without_gradient(
    g: Contraction, tensors: Sequence[Tensor], estimator: LogDetEstimator, x: Tensor, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    estimate = _detached_estimate(g, tensors, estimator, x, generator)
    return estimate.gx, estimate.value


def _detached_estimate(
    g: Contraction, tensors: Sequence[Tensor], estimator: LogDetEstimator, x: Tensor, generator: Generator | None
) -> Estimate:
    with torch.no_grad():
        fixed = [tensor.detach() for tensor in tensors]
        return estimator.estimate(lambda x: _linearize(g, fixed, x, create_graph=False), x, generator)


def _linearize(g: Contraction, tensors: Sequence[Tensor], x: Tensor, *, create_graph: bool) -> tuple[Tensor, Vjp]:
    with torch.enable_grad():
        x = _attached(x)
        gx = g.value(tensors, x)

    def product(u: Tensor) -> Tensor:
        rows = u.shape[1]
        with torch.enable_grad():
            first = gx[:rows]
        options = {"create_graph": create_graph, "retain_graph": True}
        return torch.stack([torch.autograd.grad(first, x, probe, **options)[0][:rows] for probe in u])

    return (gx if create_graph else gx.detach()), Vjp(product)


def _attached(x: Tensor) -> Tensor:
    """x in a graph, without asking the caller's own tensor for gradients."""
    return x if x.requires_grad else x.detach().requires_grad_()


def functional(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Every term by `torch.func.vjp`; replaces all routes inside a transform of `torch.func`.

    Raises:
        ConfigurationError: every sample of a vmap draws its own number of terms, whose values vmap hides.
    """
    tensors = g.tensors()
    estimate = estimator.estimate(lambda x: functional_linearize(g, tensors, x), x, generator)
    return estimate.gx, estimate.value


#: Name of a route → the function.
GRADIENTS: dict[str, Route] = {
    "dual": dual,
    "kept": kept,
    "series": series,
    "neumann": neumann,
    "backward_in_forward": backward_in_forward,
}
