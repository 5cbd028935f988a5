"""Roots of increasing scalar functions by bisection, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Root:
    """The solution of an equation for each element, or for each sample.

    Attributes:
        value: the root, or the x that follows from it.
        iterations: halvings of the bracket.
        residual: absolute value of the equation at `value`.
        error_bound: bound on the distance of `value` from the true solution, up to rounding errors in the equation.
        converged: whether the tolerance was reached.
    """

    value: Tensor
    iterations: Tensor
    residual: Tensor
    error_bound: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Bisection:
    r"""Halve the bracket until half of its width is at most tolerance·max(1, |root|).

    Args:
        tolerance: ``None`` chooses by dtype: four units of rounding, 4.8e-7 in float32 and 8.9e-16 in float64.
        max_iterations: largest number of halvings.

    >>> root = Bisection().solve(lambda t: t**3 - 8, torch.zeros(1), torch.full((1,), 5.0))
    >>> round(root.value.item(), 4), bool(root.error_bound < 1e-6)
    (2.0, True)
    """

    tolerance: float | None = None
    max_iterations: int = 200

    def solve(self, function: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor) -> Root:
        """The t between `lower` and `upper` with function(t) = 0; raises nothing.

        Args:
            function: increasing, element by element.
            lower, upper: any shape; where the root does not lie between them, the result is the nearer of the two.
        """
        tolerance = 4 * torch.finfo(lower.dtype).eps if self.tolerance is None else self.tolerance
        iterations = torch.zeros(lower.shape, dtype=torch.long, device=lower.device)
        for halving in range(self.max_iterations + 1):
            half = (upper - lower) / 2
            middle = lower + half
            working = half > tolerance * middle.abs().clamp_min(1)
            if halving == self.max_iterations or not bool(working.any()):
                break
            below = function(middle) < 0
            lower = torch.where(working & below, middle, lower)
            upper = torch.where(working & ~below, middle, upper)
            iterations = iterations + working
        residual = function(middle).abs()
        return Root(middle, iterations, residual, half, ~working & half.isfinite() & residual.isfinite())


def implicit(root: Tensor, equation_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """`root` with the derivatives of the solution of F(t, θ) = 0 up to third order, from two Newton steps.

    A Newton step from a constant has the right first derivative, -(∂F/∂θ)/(∂F/∂t); each further step takes n right
    orders to 2n + 1. The value does not change.

    Args:
        root: the solution, computed without gradients.
        equation_and_slope: t ↦ F(t, θ) and ∂F/∂t, with gradients with respect to t and θ.

    >>> theta = torch.tensor(8.0, requires_grad=True)
    >>> root = implicit(torch.tensor(2.0), lambda t: (t**3 - theta, 3 * t**2))
    >>> (slope,) = torch.autograd.grad(root, theta, create_graph=True)
    >>> (curvature,) = torch.autograd.grad(slope, theta)
    >>> print(f"{slope:.5f} {1 / 12:.5f} {curvature:.6f} {-2 / 9 / 32:.6f}")
    0.08333 0.08333 -0.006944 -0.006944
    """
    if torch.is_grad_enabled():
        for _ in range(2):
            equation, slope = equation_and_slope(root)
            root = root - (equation - equation.detach()) / slope
    return root
