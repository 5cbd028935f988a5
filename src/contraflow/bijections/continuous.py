"""The continuous flow dz/dt = f(t, z)."""

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
    """One solve of a continuous flow.

    Attributes:
        evaluations: of the vector field on the way there (NFE); those of the adjoint are not among them.
        penalty: what training adds to -log p, ``(batch,)``; zero without weights.
    """

    evaluations: int
    penalty: Tensor


class ContinuousFlow(Bijection):
    r"""z = z(1) for dz/dt = f(t, z), z(0) = x;  log|det ∂z/∂x| = ∫₀¹ tr ∂f/∂z dt.

    The inverse is the same from 1 to 0. Any f that is Lipschitz in z will do. A solve costs NFE evaluations of f, which
    grow as f gets stiffer, each with as many products with (∂f/∂z)ᵀ as the divergence has vectors. `forward` and
    `inverse` need none. The noise of the divergence is drawn once a solve, so that the solver sees a smooth equation.

    Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, FFJORD, 2019 (arXiv:1810.01367). Gradients by the adjoint
    equation as in Chen et al., Neural Ordinary Differential Equations, 2018 (arXiv:1806.07366): docs/maths/adjoint.md.

    The weights add a penalty to the training loss, integrated in the same solve, which keeps f smooth and NFE low:

        λ_K ∫ ‖f‖² dt + λ_J ∫ ‖∂f/∂z‖_F² dt,

    Finlay, Jacobsen, Nurbekyan, Oberman, How to train your neural ODE, 2020 (arXiv:2002.02798). Log-densities stay what
    they are; `contraflow.bijections.training_solves` collects the penalties.

    Args:
        field: f, a module of (t, z) with t a scalar tensor and z ``(batch, *event)``, sample by sample, twice
            differentiable. Gradients go to its parameters.
        divergence: `Hutchinson(probe, probes)`, or `ExactDivergence()` for small D.
        solver: method, tolerance, most evaluations.
        training_solver: of the solves inside `training_solves`, those of the training loop; `solver` when not given.
            `FixedStepSolver`, with adjoint=False, makes every step cost the same. Densities and samples always come
            from `solver`.
        adjoint: gradients from a second solve backwards in time, at constant memory; else through the solver's steps,
            exact for those steps, with the memory of all of them.
        kinetic_weight: λ_K >= 0; the paper's is 0.01.
        jacobian_weight: λ_J >= 0; the paper's is 0.01. The Frobenius norm is estimated with the divergence's vectors.

    Raises:
        DomainError: a negative weight.
        SolverError: a solve, or its adjoint, did not come to its end.

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
        #: Told of every solve; `training_solves` sets it.
        self.observer: Callable[[ContinuousSolve], None] | None = None

    @property
    def estimator_name(self) -> str:  # type: ignore[override]
        return f"{self.divergence}, {self.solver}"

    def adopt(self, logdet: LogDetEstimator) -> None:
        """Exact() makes the divergence exact; the others are made for log|det(I + J)| and change nothing here."""
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
        """z(end) from z(start) and, with vectors, ∫ tr ∂f/∂z dt; the observer gets the rest."""
        if transforms_active():
            return list(solve_transformed(self, start_value, vectors, start, end))
        training = self.observer is not None
        solver = self.training_solver if training else self.solver
        penalised = vectors is not None and training and self._weighted
        scalars = 0 if vectors is None else 1 + penalised
        rates = _Rates(self, vectors, end - start if penalised else 0.0)
        if self.adjoint and torch.is_grad_enabled():
            parameters = [one for one in self.field.parameters() if one.requires_grad]
            evaluations, *values = _Adjoint.apply(solver, rates, scalars, start, end, start_value, *parameters)
        else:
            found = solver.solve(rates.of_state, _with_zeros(start_value, scalars), start, end)
            evaluations, values = found.evaluations, list(found.state)
        if self.observer is not None:
            penalty = values.pop() if penalised else start_value.new_zeros(start_value.shape[0])
            self.observer(ContinuousSolve(evaluations, penalty))
        return values

    @property
    def _weighted(self) -> bool:
        return self.kinetic_weight > 0 or self.jacobian_weight > 0


@contextmanager
def training_solves(module: nn.Module) -> Iterator[list[ContinuousSolve]]:
    """While the context is open, the continuous flows in `module` solve with their `training_solver` and integrate their
    penalties; every solve is collected.

    >>> from contraflow.nets import dense_field
    >>> flow = ContinuousFlow(dense_field(3, (8,)), kinetic_weight=0.01)
    >>> with training_solves(flow) as solves:
    ...     _ = flow.forward_and_logdet(torch.ones(2, 3))
    >>> solves[0].penalty.shape, bool((solves[0].penalty > 0).all())
    (torch.Size([2]), True)
    """
    solves: list[ContinuousSolve] = []
    flows = [one for one in module.modules() if isinstance(one, ContinuousFlow)]
    for one in flows:
        one.observer = solves.append
    try:
        yield solves
    finally:
        for one in flows:
            one.observer = None


class _Rates:
    """(t, z) ↦ f, tr ∂f/∂z and the penalty's rate: z and its integrals, none of which the rates depend on.

    Args:
        flow: field and weights.
        vectors: of the divergence; None for f alone.
        sign: of the direction of time, for a penalty that is positive either way; 0 for no penalty.
    """

    def __init__(self, flow: ContinuousFlow, vectors: Tensor | None, sign: float) -> None:
        self.flow, self.vectors, self.sign = flow, vectors, sign

    def bound(self, parameters: dict[str, Tensor]) -> _Rates:
        """The same with other parameters of the field."""
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
        return tuple(rates) if differentiable else tuple(one.detach() for one in rates)

    @staticmethod
    def _product(f: Tensor, z: Tensor, v: Tensor, differentiable: bool) -> Tensor:
        """(∂f/∂z)ᵀv."""
        return torch.autograd.grad(f, z, v, retain_graph=True, create_graph=differentiable)[0]

    def of_state(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same as a function of z and its integrals."""
        return self(t, state[0])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ_p ⟨a_p, b_p⟩ of every sample, for ``(vectors, batch, *event)``."""
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2)).sum(dim=0)


def _with_zeros(z: Tensor, scalars: int) -> tuple[Tensor, ...]:
    return (z, *(z.new_zeros(z.shape[0]) for _ in range(scalars)))


class _Adjoint(torch.autograd.Function):
    r"""A solve differentiated by a solve backwards in time: docs/maths/adjoint.md.

    With upstream gradients a(1) of z and ℓ̄ of the integrals of r, and s(t) = ⟨a, f(t, z)⟩ + ⟨ℓ̄, r(t, z)⟩,

        da/dt = -∂s/∂z,   θ̄ = ∫ ∂s/∂θ dt.
    """

    @staticmethod
    def forward(
        ctx: Any,
        solver: OdeSolver | FixedStepSolver,
        rates: _Rates,
        scalars: int,
        start: float,
        end: float,
        z: Tensor,
        *params: Tensor,
    ) -> tuple[Any, ...]:
        found = solver.solve(rates.of_state, _with_zeros(z, scalars), start, end)
        ctx.solver, ctx.rates, ctx.start, ctx.end = solver, rates, start, end
        ctx.params = params
        ctx.save_for_backward(z, found.state[0], *params)
        return found.evaluations, *found.state

    @staticmethod
    def backward(ctx: Any, _: None, grad_z: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, z, *_params = ctx.saved_tensors  # read in full, so that parameters changed since are refused
        if torch.is_grad_enabled():
            return *[None] * 5, *_Adjoint._through_the_steps(ctx, first, (grad_z, *grads))
        # The caller's gradients may be tiny (a mean over many samples), and the tolerance is absolute too.
        scale = torch.stack([one.abs().max() for one in (grad_z, *grads)]).max() if len(z) else z.new_ones(())
        scale = scale.clamp_min(torch.finfo(z.dtype).tiny)
        integrals = [one / scale for one in grads]

        def backwards(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                now = state[0].detach().requires_grad_()
                f, *others = ctx.rates(t, now)
                pairs = zip((f, *others), (state[1], *integrals), strict=True)
                total = torch.stack([(rate * weight).sum() for rate, weight in pairs]).sum()
                slopes = torch.autograd.grad(total, (now, *ctx.params), allow_unused=True, materialize_grads=True)
            return f.detach(), *(-one for one in slopes)

        state = (z, grad_z / scale, *(torch.zeros_like(one) for one in ctx.params))
        found = ctx.solver.solve(backwards, state, ctx.end, ctx.start)
        _, grad_start, *grad_params = found.state
        return *[None] * 5, grad_start * scale, *(one * scale for one in grad_params)

    @staticmethod
    def _through_the_steps(ctx: Any, first: Tensor, grads: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients with a graph of their own, for a backward pass under ``create_graph``: through the solver's steps,
        with the memory of all of them."""
        wanted = ctx.needs_input_grad[5:]
        z, *params = map(alias, (first, *ctx.params))
        z = z if z.requires_grad else z.detach().requires_grad_()
        names = [name for name, one in ctx.rates.flow.field.named_parameters() if one.requires_grad]
        rates = ctx.rates.bound(dict(zip(names, params, strict=True)))
        found = ctx.solver.solve(rates.of_state, _with_zeros(z, len(grads) - 1), ctx.start, ctx.end)
        asked = [one for one, need in zip((z, *params), wanted, strict=True) if need]
        slopes = iter(torch.autograd.grad(found.state, asked, grads, create_graph=True, allow_unused=True))
        return [next(slopes) if need else None for need in wanted]


def solve_transformed(
    flow: ContinuousFlow, start_value: Tensor, vectors: Tensor | None, start: float, end: float
) -> tuple[Tensor, ...]:
    """A solve inside transforms of `torch.func`: the solver chooses its steps by values, which vmap hides, so vmap is a
    loop here. It has first derivatives."""
    parameters = dict(flow.field.named_parameters())
    given = (start_value,) if vectors is None else (start_value, vectors)

    def solve(*tensors: Tensor) -> tuple[Tensor, ...]:
        twin = _with_field(flow, dict(zip(parameters, tensors[len(given) :], strict=True)))
        twin.observer = None
        return tuple(twin._solve(tensors[0], start, end, *tensors[1 : len(given)]))

    return _Transformed.apply(solve, *given, *parameters.values())


def _with_field(flow: ContinuousFlow, parameters: dict[str, Tensor]) -> ContinuousFlow:
    """The same flow with other parameters of its field."""
    twin = copy.copy(flow)
    twin._modules = {**flow._modules, "field": _BoundField(flow.field, parameters)}
    return twin


class _BoundField(nn.Module):
    """A field with other parameters."""

    def __init__(self, field: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self._bound = [field], values  # a list: the field is no child of this module

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(self._bound[1].values())  # type: ignore[arg-type]

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        (field,), values = self._bound
        return torch.func.functional_call(field, values, (t, z))


class _Transformed(torch.autograd.Function):
    """solve(*tensors), opaque to vmap."""

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
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _looped(_Transformed, info.batch_size, in_dims, given)


class _TransformedGradient(torch.autograd.Function):
    """The gradients of solve(*tensors), opaque to vmap."""

    @staticmethod
    def forward(solve: Callable[..., tuple[Tensor, ...]], count: int, *given: Tensor) -> tuple[Tensor, ...]:
        grads, tensors = given[:count], [one.detach().requires_grad_() for one in given[count:]]
        with torch.enable_grad():
            values = solve(*tensors)
        return torch.autograd.grad(values, tensors, grads, allow_unused=True, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise ConfigurationError(
            "a continuous flow has first derivatives inside torch.func; for second ones use torch.autograd."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _looped(_TransformedGradient, info.batch_size, in_dims, given)


def _looped(
    function: type[torch.autograd.Function], size: int, in_dims: tuple[int | None, ...], given: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The function of each of `size` slices of its arguments, stacked."""
    slices = (
        [one if dim is None else one.select(dim, index) for one, dim in zip(given, in_dims, strict=True)]
        for index in range(size)
    )
    stacked = tuple(torch.stack(each) for each in zip(*(function.apply(*some) for some in slices), strict=True))
    return stacked, (0,) * len(stacked)
