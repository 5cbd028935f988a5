"""Increasing functions of one variable, inverted by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from contraflow.errors import InversionError
from contraflow.numerics import Bisection, implicit, transforms_active

_DOUBLINGS = 40


class MonotoneTransform(Transform):
    r"""y = f(x), elementwise, for an increasing function f from the real line onto itself; log|dy/dx| by autograd.

    The inverse doubles a bracket around 0 until it contains the solution, bisects it until it is 2²⁰ (float32) or 2³⁴
    (float64) times smaller, and takes one Newton step, which doubles the number of correct bits where f is smooth on
    that scale. The remaining error is the rounding error of f times 1/f'(x). First and second derivatives follow
    from the implicit function theorem: ∂x/∂y = 1/f'(x), ∂x/∂θ = -∂_θ f/f'(x).

    Args:
        function: f, from ``(*shape)`` to ``(*shape)``.

    Raises:
        InversionError: no bracket up to ±2⁴⁰ contains the solution, because f is not increasing or does not reach y.

    >>> transform = MonotoneTransform(lambda x: x + x**3)
    >>> transform.inv(torch.tensor([10.0]))
    tensor([2.])
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def _call(self, x: Tensor) -> Tensor:
        return self.function(x)

    def _inverse(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            start = self._bisect(y)
            value, slope = self._value_and_slope(start)
            root = start - (value - y) / slope

        def equation_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
            equation, slope = self.function(x) - y, self._value_and_slope(x)[1]
            return equation, slope if equation.requires_grad else slope.detach()

        return implicit(root, equation_and_slope)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self._value_and_slope(x)[1].log()

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x) from one evaluation; zuko calls this method where a transform has it."""
        value, slope = self._value_and_slope(x)
        return value, slope.log()

    def _value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if transforms_active():
            value, pullback = torch.func.vjp(self.function, x)  # type: ignore[misc]
            return value, pullback(torch.ones_like(value))[0]
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.clone().requires_grad_()  # a clone: parameters of f may depend on the caller's x too
            value = self.function(x)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=differentiable)
        return (value, slope) if differentiable else (value.detach(), slope)

    def _bisect(self, y: Tensor) -> Tensor:
        width = torch.ones_like(y)
        for _ in range(_DOUBLINGS):
            outside = ~((self.function(-width) <= y) & (y <= self.function(width)))
            if not bool(outside.any()):
                break
            width = torch.where(outside, 2 * width, width)
        else:
            raise InversionError(
                f"no solution between -2^{_DOUBLINGS} and 2^{_DOUBLINGS} for {y[outside][0].item():g}: the function is "
                "not increasing, or does not reach all real numbers. Look for weights that are not finite, or all zero."
            )
        halving = Bisection(max_iterations=_halvings(y.dtype))
        return halving.solve(lambda x: self.function(x) - y, -width, width).value


def _halvings(dtype: torch.dtype) -> int:
    """Half of the bits of a dtype and 8 more, since the Newton step doubles the number of correct bits."""
    return 8 - math.floor(math.log2(torch.finfo(dtype).eps)) // 2
