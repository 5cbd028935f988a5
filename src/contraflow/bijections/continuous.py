"""Continuous flows, dz/dt = f(t, z)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ConfigurationError, DomainError
from contraflow.logdet import Divergence, Exact, ExactDivergence, Hutchinson, LogDetEstimator
from contraflow.numerics import FixedStepSolver, OdeSolver, alias, transforms_active


@dataclass(frozen=True)
class ContinuousSolve:
    """The cost of one solve of a continuous flow's differential equation.

    Attributes:
        evaluations: number of evaluations of the vector field (NFE) in the forward solve, without those of the adjoint.
        penalty: the penalty that training adds to -log p, ``(batch,)``; zero without weights.
    """

    evaluations: int
    penalty: Tensor


class ContinuousFlow(Bijection):
    r"""z = z(1) for dz/dt = f(t, z), z(0) = x;  log|det ∂z/∂x| = ∫₀¹ tr ∂f/∂z dt.

    The inverse solves the same equation from t = 1 to 0; f can be any function that is Lipschitz in z. A solve takes
    NFE evaluations of f, a number that grows as f becomes stiffer. For the log-determinant, each evaluation also
    computes a product with (∂f/∂z)ᵀ for every vector of the divergence; `forward` and `inverse` omit these. The noise
    of the divergence is drawn once per solve, so that the equation is smooth.

    Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, FFJORD, 2019 (arXiv:1810.01367). Gradients by the adjoint
    equation as in Chen et al., Neural Ordinary Differential Equations, 2018 (arXiv:1806.07366): docs/maths/adjoint.md.

    Two weights add a penalty to the training loss, integrated in the same solve, which keeps f smooth and NFE low:

        λ_K ∫ ‖f‖² dt + λ_J ∫ ‖∂f/∂z‖_F² dt,

    Finlay, Jacobsen, Nurbekyan, Oberman, How to train your neural ODE, 2020 (arXiv:2002.02798). The penalty does not
    change log-densities; `contraflow.bijections.training_solves` collects it.

    Args:
        field: f, a module called with a scalar tensor t and z ``(batch, *event)``, twice differentiable, that treats
            samples independently. Gradients go to its parameters.
        divergence: `Hutchinson(probe, probes)`, or `ExactDivergence()` for small D.
        solver: method, tolerance and largest number of evaluations.
        training_solver: solver inside `training_solves`, where the training loop solves; `solver` when not given. With
            a `FixedStepSolver` and adjoint=False, every training step costs the same. Densities and samples always come
            from `solver`.
        adjoint: whether gradients come from a second solve backwards in time, with constant memory; otherwise they are
            computed through the solver's steps, exactly for these steps, with memory for all of them.
        kinetic_weight: λ_K >= 0; the paper's is 0.01.
        jacobian_weight: λ_J >= 0; the paper's is 0.01. The Frobenius norm is estimated with the divergence's vectors.

    Raises:
        DomainError: a weight is negative.
        SolverError: a solve, or its adjoint, failed or exceeded its number of evaluations.

    >>> from contraflow.nets import dense_field
    >>> flow = ContinuousFlow(dense_field(3, (8,)), ExactDivergence())
    >>> z, logdet = flow.forward_and_logdet(torch.zeros(2, 3))
    >>> z.shape, logdet.shape
    (torch.Size([2, 3]), torch.Size([2]))
    """

    def __init__(
        self,
        field: nn.Module,
        divergence: Divergence | None = None,
        solver: OdeSolver | None = None,
        *,
        training_solver: OdeSolver | FixedStepSolver | None = None,
        adjoint: bool = True,
        kinetic_weight: float = 0.0,
        jacobian_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if kinetic_weight < 0 or jacobian_weight < 0:
            raise DomainError(
                f"kinetic_weight={kinetic_weight}, jacobian_weight={jacobian_weight}: neither can be negative."
            )
        self.field = field
        self.divergence = divergence if divergence is not None else Hutchinson()
        self.solver = solver if solver is not None else OdeSolver()
        self.training_solver = training_solver if training_solver is not None else self.solver
        self.adjoint = adjoint
        self.kinetic_weight = kinetic_weight
        self.jacobian_weight = jacobian_weight
        #: Called after every solve; set by `training_solves`.
        self.observer: Callable[[ContinuousSolve], None] | None = None

    @property
    def estimator_name(self) -> str:  # type: ignore[override]
        return f"{self.divergence}, {self.solver}"

    def adopt(self, logdet: LogDetEstimator) -> None:
        """Exact() makes the divergence exact; other estimators are of log|det(I + J)| and have no effect here."""
        if isinstance(logdet, Exact):
            self.divergence = ExactDivergence()

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        z, logdet = self._solve(x, 0.0, 1.0, self.divergence.vectors(x, generator))
        return z, logdet

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x, logdet = self._solve(z, 1.0, 0.0, self.divergence.vectors(z, generator))
        return x, logdet

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._solve(x, 0.0, 1.0)[0]

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._solve(z, 1.0, 0.0)[0]

    def _solve(self, start_value: Tensor, start: float, end: float, vectors: Tensor | None = None) -> list[Tensor]:
        """z(end) from z(start) and, with vectors, ∫ tr ∂f/∂z dt; NFE and penalty go to the observer."""
        if transforms_active():
            return list(solve_transformed(self, start_value, vectors, start, end))
        training = self.observer is not None
        solver = self.training_solver if training else self.solver
        penalised = vectors is not None and training and self._has_penalty
        integrals = 0 if vectors is None else 1 + penalised
        rates = _Rates(self, vectors, end - start if penalised else 0.0)
        if self.adjoint and torch.is_grad_enabled():
            parameters = [parameter for parameter in self.field.parameters() if parameter.requires_grad]
            evaluations, *values = _Adjoint.apply(solver, rates, integrals, start, end, start_value, *parameters)
        else:
            solution = solver.solve(rates.of_state, _with_zeros(start_value, integrals), start, end)
            evaluations, values = solution.evaluations, list(solution.state)
        if self.observer is not None:
            penalty = values.pop() if penalised else start_value.new_zeros(start_value.shape[0])
            self.observer(ContinuousSolve(evaluations, penalty))
        return values

    @property
    def _has_penalty(self) -> bool:
        return self.kinetic_weight > 0 or self.jacobian_weight > 0


@contextmanager
def training_solves(module: nn.Module) -> Iterator[list[ContinuousSolve]]:
    """A context in which the continuous flows of a module solve with their `training_solver` and integrate their
    penalties; it collects NFE and penalty of every solve.

    >>> from contraflow.nets import dense_field
    >>> flow = ContinuousFlow(dense_field(3, (8,)), kinetic_weight=0.01)
    >>> with training_solves(flow) as solves:
    ...     _ = flow.forward_and_logdet(torch.ones(2, 3))
    >>> solves[0].penalty.shape, bool((solves[0].penalty > 0).all())
    (torch.Size([2]), True)
    """
    solves: list[ContinuousSolve] = []
    flows = [flow for flow in module.modules() if isinstance(flow, ContinuousFlow)]
    for flow in flows:
        flow.observer = solves.append
    try:
        yield solves
    finally:
        for flow in flows:
            flow.observer = None


class _Rates:
    """The function (t, z) ↦ f, tr ∂f/∂z and the rate of the penalty, whose integrals a solve computes.

    Args:
        flow: field and weights.
        vectors: of the divergence; None for f alone.
        sign: of the direction of time, so that the penalty is positive in both directions; 0 for no penalty.
    """

    def __init__(self, flow: ContinuousFlow, vectors: Tensor | None, sign: float) -> None:
        self.flow, self.vectors, self.sign = flow, vectors, sign

    def bound(self, parameters: dict[str, Tensor]) -> _Rates:
        """The same function with other parameters of the field."""
        return _Rates(_with_field(self.flow, parameters), self.vectors, self.sign)

    def __call__(self, t: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        if self.vectors is None:
            return (self.flow.field(t, z),)
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            z = z if differentiable and z.requires_grad else z.detach().requires_grad_()
            f = self.flow.field(t, z)
            products = torch.stack([self._product(f, z, v, differentiable) for v in self.vectors])
            rates = [f, _inner(self.vectors, products)]
            if self.sign:
                kinetic = self.flow.kinetic_weight * f.square().flatten(1).sum(dim=1)
                rates.append(self.sign * (kinetic + self.flow.jacobian_weight * _inner(products, products)))
        return tuple(rates) if differentiable else tuple(rate.detach() for rate in rates)

    @staticmethod
    def _product(f: Tensor, z: Tensor, v: Tensor, differentiable: bool) -> Tensor:
        """(∂f/∂z)ᵀv."""
        return torch.autograd.grad(f, z, v, retain_graph=True, create_graph=differentiable)[0]

    def of_state(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same as a function of the solver's state: z, followed by the integrals, on which it does not depend."""
        return self(t, state[0])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ_p ⟨a_p, b_p⟩ for every sample, from ``(vectors, batch, *event)``."""
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2)).sum(dim=0)


def _with_zeros(z: Tensor, integrals: int) -> tuple[Tensor, ...]:
    """The initial state of a solve: z, and a zero for each sample and integral."""
    return (z, *(z.new_zeros(z.shape[0]) for _ in range(integrals)))


class _Adjoint(torch.autograd.Function):
    r"""A solve whose gradients are computed by a solve backwards in time: docs/maths/adjoint.md.

    With upstream gradients a(1) of z and ℓ̄ of the integrals of r, and s(t) = ⟨a, f(t, z)⟩ + ⟨ℓ̄, r(t, z)⟩,

        da/dt = -∂s/∂z,   θ̄ = ∫ ∂s/∂θ dt.
    """

    @staticmethod
    def forward(
        ctx: Any,
        solver: OdeSolver | FixedStepSolver,
        rates: _Rates,
        integrals: int,
        start: float,
        end: float,
        z: Tensor,
        *params: Tensor,
    ) -> tuple[Any, ...]:
        solution = solver.solve(rates.of_state, _with_zeros(z, integrals), start, end)
        ctx.solver, ctx.rates, ctx.start, ctx.end = solver, rates, start, end
        ctx.params = params
        ctx.save_for_backward(z, solution.state[0], *params)
        return solution.evaluations, *solution.state

    @staticmethod
    def backward(ctx: Any, _: None, grad_z: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_start, z, *_ = ctx.saved_tensors  # all are unpacked, so that autograd detects parameters changed in place
        if torch.is_grad_enabled():
            return *[None] * 5, *_Adjoint._through_the_steps(ctx, z_start, (grad_z, *grads))
        # The upstream gradients may be tiny (a mean over many samples), and the solver also has an absolute tolerance.
        scale = torch.stack([grad.abs().max() for grad in (grad_z, *grads)]).max() if len(z) else z.new_ones(())
        scale = scale.clamp_min(torch.finfo(z.dtype).tiny)
        weights = [grad / scale for grad in grads]

        def backwards(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                z_t = state[0].detach().requires_grad_()
                f, *others = ctx.rates(t, z_t)
                pairs = zip((f, *others), (state[1], *weights), strict=True)
                total = torch.stack([(rate * weight).sum() for rate, weight in pairs]).sum()
                slopes = torch.autograd.grad(total, (z_t, *ctx.params), allow_unused=True, materialize_grads=True)
            return f.detach(), *(-slope for slope in slopes)

        state = (z, grad_z / scale, *(torch.zeros_like(parameter) for parameter in ctx.params))
        _, grad_start, *grad_params = ctx.solver.solve(backwards, state, ctx.end, ctx.start).state
        return *[None] * 5, grad_start * scale, *(grad * scale for grad in grad_params)

    @staticmethod
    def _through_the_steps(ctx: Any, z_start: Tensor, grads: Sequence[Tensor]) -> list[Tensor | None]:
        """Differentiable gradients, for a backward pass under ``create_graph``, through the steps of a second forward
        solve, with memory for all steps."""
        needs_grad = ctx.needs_input_grad[5:]
        z, *params = map(alias, (z_start, *ctx.params))
        z = z if z.requires_grad else z.detach().requires_grad_()
        field = ctx.rates.flow.field
        names = [name for name, parameter in field.named_parameters() if parameter.requires_grad]
        rates = ctx.rates.bound(dict(zip(names, params, strict=True)))
        solution = ctx.solver.solve(rates.of_state, _with_zeros(z, len(grads) - 1), ctx.start, ctx.end)
        inputs = [tensor for tensor, need in zip((z, *params), needs_grad, strict=True) if need]
        slopes = iter(torch.autograd.grad(solution.state, inputs, grads, create_graph=True, allow_unused=True))
        return [next(slopes) if need else None for need in needs_grad]


def solve_transformed(
    flow: ContinuousFlow, start_value: Tensor, vectors: Tensor | None, start: float, end: float
) -> tuple[Tensor, ...]:
    """A solve inside transforms of `torch.func`, with first derivatives only.

    The solver chooses its steps by values, which vmap hides, so vmap is a loop over samples here.
    """
    parameters = dict(flow.field.named_parameters())
    arguments = (start_value,) if vectors is None else (start_value, vectors)

    def solve(*tensors: Tensor) -> tuple[Tensor, ...]:
        twin = _with_field(flow, dict(zip(parameters, tensors[len(arguments) :], strict=True)))
        twin.observer = None
        return tuple(twin._solve(tensors[0], start, end, *tensors[1 : len(arguments)]))

    return _Transformed.apply(solve, *arguments, *parameters.values())


def _with_field(flow: ContinuousFlow, parameters: dict[str, Tensor]) -> ContinuousFlow:
    """A copy of the flow with other parameters of its field."""
    twin = copy.copy(flow)
    twin._modules = {**flow._modules, "field": _BoundField(flow.field, parameters)}
    return twin


class _BoundField(nn.Module):
    """A field called with other parameters."""

    def __init__(self, field: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self._bound = [field], values  # in a list, so that the field is not a submodule

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(self._bound[1].values())  # type: ignore[arg-type]

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        (field,), values = self._bound
        return torch.func.functional_call(field, values, (t, z))


class _Transformed(torch.autograd.Function):
    """solve(*tensors), whose vmap is a loop."""

    @staticmethod
    def forward(solve: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return solve(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.solve, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_TransformedGradient.apply(ctx.solve, len(grads), *grads, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _looped(_Transformed, info.batch_size, in_dims, inputs)


class _TransformedGradient(torch.autograd.Function):
    """The gradients of solve(*tensors), whose vmap is a loop."""

    @staticmethod
    def forward(solve: Callable[..., tuple[Tensor, ...]], count: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        grads, tensors = inputs[:count], [tensor.detach().requires_grad_() for tensor in inputs[count:]]
        with torch.enable_grad():
            values = solve(*tensors)
        return torch.autograd.grad(values, tensors, grads, allow_unused=True, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise ConfigurationError(
            "a continuous flow has only first derivatives inside torch.func; use torch.autograd for second ones."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _looped(_TransformedGradient, info.batch_size, in_dims, inputs)


def _looped(
    function: type[torch.autograd.Function], size: int, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results of a function on each of `size` slices of its inputs, stacked."""
    slices = (
        [value if dim is None else value.select(dim, index) for value, dim in zip(inputs, in_dims, strict=True)]
        for index in range(size)
    )
    results = zip(*(function.apply(*arguments) for arguments in slices), strict=True)
    stacked = tuple(torch.stack(outputs) for outputs in results)
    return stacked, (0,) * len(stacked)
