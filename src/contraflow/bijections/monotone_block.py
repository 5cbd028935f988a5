"""The monotone block: the Cayley transform of a contraction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from contraflow.bijections.residual import ContractionBlock
from contraflow.logdet import CAYLEY
from contraflow.numerics import Contraction, FixedPoint


class MonotoneBlock(ContractionBlock):
    r"""z = (u - g(u))/2 where u solves x = (u + g(u))/2, with Lip(g) < 1.

    It is the Cayley transform ((Id + g)/2)⁻¹ - Id of g, strictly monotone, with a Lipschitz constant of up to
    (1 + L)/(1 - L) in both directions, where a residual block has 1 + L in one. Both are fixed points: u = 2x - g(u)
    for z = u - x, and u = 2z + g(u) for x = u - z. With J = J_g(u),

        log|det ∂z/∂x| = log|det(I - J)| - log|det(I + J)| = -2 Σ_{odd k} tr Jᵏ/k,

    one series for both terms. An error of the solver in u is one in z of the same size, so log-densities are accurate
    to its tolerance. Ahn, Kim, Hong, Kim, Invertible monotone operators for normalizing flows, 2022 (arXiv:2210.08176).
    docs/maths/monotone-block.md.

    Args:
        g, logdet, gradient: as for `ResidualBlock`.
        inverse: solver of both fixed points.

    Raises:
        DomainError: g is not a `Contraction`.
        ConfigurationError: the name of the gradient is unknown, or the estimator is of log|det(I + J)| only.
        InversionError: a fixed point did not reach its tolerance, in either direction.

    >>> from contraflow.lipschitz import LipschitzMLP
    >>> z, logdet = MonotoneBlock(LipschitzMLP(2, (8, 8))).forward_and_logdet(torch.zeros(3, 2))
    >>> z.shape, logdet.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """

    solved = "the fixed point of a monotone block"
    solves_forward = True

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        u = self._fixed_point(self.g, 2 * x)
        return u - x, self._value_and_logdet(u, generator, CAYLEY)[1]

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        u = self._fixed_point(_Negative(self.g), 2 * z)
        return u - z, -self._value_and_logdet(u, generator, CAYLEY)[1]

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._fixed_point(self.g, 2 * x) - x

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._fixed_point(_Negative(self.g), 2 * z) - z

    def solve(self, z: Tensor) -> FixedPoint:
        """The fixed point u of the inverse, x = u - z, with its iterations and true residual, also if not converged."""
        with torch.no_grad():
            return self._solve(_Negative(self.g), self.g.tensors(), 2 * z)

    def solve_forward(self, x: Tensor) -> FixedPoint:
        """The fixed point u of the forward direction, z = u - x, as `solve` reports it."""
        with torch.no_grad():
            return self._solve(self.g, self.g.tensors(), 2 * x)

    def solved_lipschitz_bound(self) -> float:
        """(1 + L)/(1 - L), for both directions; infinity if L >= 1."""
        bound = self.g.lipschitz_bound()
        return (1 + bound) / (1 - bound) if bound < 1 else math.inf


class _Negative(Contraction):
    """-g, whose tensors are those of g."""

    def __init__(self, g: Contraction) -> None:
        self._g = g
        self.norm_order = g.norm_order

    def tensors(self) -> tuple[Tensor, ...]:
        return self._g.tensors()

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        return -self._g.value(tensors, x)

    def function(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        function = self._g.function(tensors)
        return lambda x: -function(x)

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        gx, products = self._g.dual(tensors, x, t)
        return -gx, -products

    def lipschitz_bound(self) -> float:
        return self._g.lipschitz_bound()
