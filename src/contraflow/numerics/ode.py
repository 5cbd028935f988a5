"""Ordinary differential equations dy/dt = f(t, y), by the Runge-Kutta methods of torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.errors import ConfigurationError, DomainError, SolverError, unknown_name

State = tuple[Tensor, ...]
# (t, y) -> dy/dt
Dynamics = Callable[[Tensor, State], State]

#: Pairs with a step size that follows the error: torchdiffeq's name → order.
METHODS = {"bosh3": 3, "dopri5": 5, "dopri8": 8}
#: Methods for steps of one size: torchdiffeq's name → order, which is also how often a step evaluates f.
FIXED_METHODS = {"euler": 1, "midpoint": 2, "rk4": 4}


@dataclass(frozen=True)
class OdeSolution:
    """The result of an ODE solver.

    Attributes:
        state: y at the end.
        evaluations: number of evaluations of f (NFE).
    """

    state: State
    evaluations: int


@dataclass(frozen=True)
class OdeSolver:
    """An adaptive Runge-Kutta solver.

    All samples of a batch share the step sizes, which are set by the largest root-mean-square error of the tensors of
    y. So the result for a sample depends on the others of its batch, to within the tolerance.

    Args:
        method: a name in `METHODS`; of low order for loose tolerances, of high order for tight ones.
        tolerance: error of a step, absolute and relative to y; at least ten times the machine epsilon of the dtype.
        max_evaluations: largest number of evaluations of f in one solve.

    Raises:
        ConfigurationError: unknown method.
        DomainError: a tolerance or number of evaluations that is not positive.

    >>> solution = OdeSolver(tolerance=1e-6).solve(lambda t, y: (-y[0],), (torch.ones(1),), 0.0, 1.0)
    >>> print(f"{solution.state[0].item():.4f}", solution.evaluations < 50)
    0.3679 True
    """

    method: str = "dopri5"
    tolerance: float = 1e-5
    max_evaluations: int = 2000

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("ODE solver", self.method, METHODS)
        if not 0 < self.tolerance < math.inf:
            raise DomainError(f"tolerance={self.tolerance}: it must be positive and finite.")
        if self.max_evaluations < 1:
            raise DomainError(f"max_evaluations={self.max_evaluations}: at least 1 is needed.")

    def solve(self, dynamics: Dynamics, state: State, start: float, end: float) -> OdeSolution:
        """y(end) from y(start) = `state`, whose first tensor has the batch; an empty batch is returned unchanged.

        Raises:
            SolverError: the step size underflows, or `max_evaluations` is reached.
            ConfigurationError: torchdiffeq is missing.
        """
        odeint = _odeint()
        first = state[0]
        if not first.numel():
            return OdeSolution(state, 0)
        evaluations = 0

        def counted(t: Tensor, state: State) -> State:
            nonlocal evaluations
            if evaluations == self.max_evaluations:
                raise SolverError(f"{self} reached max_evaluations={evaluations} at t = {t.item():.4g}. {_REMEDY}")
            evaluations += 1
            return dynamics(t, state)

        tolerance = max(self.tolerance, 10 * torch.finfo(first.dtype).eps)
        times = _times(start, end, first)
        # The last step ends exactly at `end`: interpolation within it would be of fourth order for every method.
        options = {"step_t": times[1:]}
        try:
            states = odeint(counted, state, times, rtol=tolerance, atol=tolerance, method=self.method, options=options)
        except AssertionError as error:  # torchdiffeq raises it where the step underflows or a state is not finite
            raise SolverError(f"{self} failed after {evaluations} evaluations: {error}. {_REMEDY}") from error
        return OdeSolution(tuple(tensor[-1] for tensor in states), evaluations)

    def __str__(self) -> str:
        return f"{self.method} to {self.tolerance:g}"


@dataclass(frozen=True)
class FixedStepSolver:
    """A solver with steps of one size: every solve costs the same, and its error is not controlled.

    For training, where gradients go through the steps; a density needs `OdeSolver` with a small tolerance.

    Args:
        method: a name in `FIXED_METHODS`; a method of order p has an error of order (1/steps)^p.
        steps: number of steps between the two times.

    Raises:
        ConfigurationError: unknown method.
        DomainError: no step.

    >>> solution = FixedStepSolver("rk4", 4).solve(lambda t, y: (-y[0],), (torch.ones(1),), 0.0, 1.0)
    >>> print(f"{solution.state[0].item():.4f}", solution.evaluations)
    0.3679 16
    """

    method: str = "rk4"
    steps: int = 4

    def __post_init__(self) -> None:
        if self.method not in FIXED_METHODS:
            raise unknown_name("fixed-step ODE solver", self.method, FIXED_METHODS)
        if self.steps < 1:
            raise DomainError(f"steps={self.steps}: at least 1 is needed.")

    def solve(self, dynamics: Dynamics, state: State, start: float, end: float) -> OdeSolution:
        """y(end) from y(start) = `state`, whose first tensor has the batch; an empty batch stays as it is.

        Raises:
            ConfigurationError: torchdiffeq is missing.
        """
        odeint = _odeint()
        if not state[0].numel():
            return OdeSolution(state, 0)

        def grid(_: Dynamics, state: State, times: Tensor) -> Tensor:
            # torchdiffeq's own grid, from the size of a step, can have one step more by rounding
            first, last = times.tolist()
            return torch.linspace(first, last, self.steps + 1, dtype=times.dtype, device=times.device)

        times, options = _times(start, end, state[0]), {"grid_constructor": grid}
        path = odeint(dynamics, state, times, method=self.method, options=options)
        return OdeSolution(tuple(values[-1] for values in path), self.steps * FIXED_METHODS[self.method])

    def __str__(self) -> str:
        return f"{self.method} in {self.steps} steps"


def _times(start: float, end: float, like: Tensor) -> Tensor:
    return torch.tensor([start, end], dtype=like.dtype, device=like.device)


_REMEDY = (
    "The vector field has become stiff or is not finite: raise max_evaluations, loosen the tolerance, compute in "
    "float64 (flow.double()), or keep the field smooth by kinetic_weight and jacobian_weight or a lower learning rate."
)


def _odeint() -> Callable[..., tuple[Tensor, ...]]:
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ConfigurationError("continuous flows need the extra: pip install 'contraflow[ffjord]'.") from None
    return odeint
