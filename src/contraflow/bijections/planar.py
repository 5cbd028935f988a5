"""The planar flow: a tanh along one direction."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import InversionError, ShapeError
from contraflow.numerics import Bisection, Root, implicit

_BISECTION = Bisection()


class Planar(Bijection):
    r"""z = x + û tanh(wᵀx + b); log|det| = log(1 + wᵀû tanh'(wᵀx + b)), by the matrix determinant lemma.

    The map is invertible if wᵀû > -1. The parameter u is unconstrained and is rescaled to û = φ(wᵀu) u with

        φ(t) = (1 + e^{asinh t}) / (1 + √(1 + t²)),    so that    1 + wᵀû = e^{asinh(wᵀu)} > 0.

    Every allowed û belongs to exactly one u. The cost is O(D) per sample.

    Rezende and Mohamed 2015 (arXiv:1505.05770) use this map from noise to samples, for variational inference, with
    another formula for û. Here, as in all bijections of this library, `forward` maps data to latent, so densities have
    a closed form. For samples, `inverse` solves one increasing scalar equation each: with c = wᵀû and α = wᵀz + b,

        a + c tanh(a) = α,  |a - α| <= |c|,    then    x = z - û tanh(a),

    by bisection, with gradients by the implicit function theorem.

    Args:
        features: D, for vectors ``(batch, D)``.
        inverse: tolerance and number of iterations of the bisection.

    Raises:
        ShapeError: an input is not ``(batch, D)``.
        InversionError: the inverse did not reach its tolerance.

    >>> flow, x = Planar(3), torch.randn(5, 3)
    >>> z, logdet = flow.forward_and_logdet(x)
    >>> torch.allclose(flow.inverse(z), x, atol=1e-5), logdet.shape
    (True, torch.Size([5]))
    """

    def __init__(self, features: int, inverse: Bisection = _BISECTION) -> None:
        super().__init__()
        self.solver = inverse
        self.w = nn.Parameter(torch.randn(features) / math.sqrt(features))
        self.u = nn.Parameter(torch.randn(features) / math.sqrt(features))
        self.b = nn.Parameter(torch.zeros(()))

    def direction_and_gain(self) -> tuple[Tensor, Tensor]:
        """û and 1 + wᵀû."""
        stretch, gain = invertible_product(self.w @ self.u)
        return stretch * self.u, gain

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_vectors(self, x, len(self.w))
        direction, gain = self.direction_and_gain()
        h = torch.tanh(x @ self.w + self.b)
        return x + h[:, None] * direction, slope(gain, h).log()

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_vectors(self, z, len(self.w))
        direction, gain = self.direction_and_gain()
        a, root = solve_tanh(self.solver, gain, z @ self.w + self.b)
        raise_unless_converged(self, root)
        h = torch.tanh(a)
        return z - h[:, None] * direction, -slope(gain, h).log()

    @torch.no_grad()
    def solve(self, z: Tensor) -> Root:
        """The inverse with its number of bisection steps, residual ‖z - f(x)‖₂ and error bound, each ``(batch,)``.

        ‖x - x*‖₂ <= (1 + ‖û‖‖w‖ / (1 + wᵀû)) · residual: the inverse Jacobian is I - û h' wᵀ / (1 + h' wᵀû), h' <= 1.
        No error is raised if the tolerance is not reached.
        """
        check_vectors(self, z, len(self.w))
        direction, gain = self.direction_and_gain()
        a, root = solve_tanh(self.solver, gain, z @ self.w + self.b)
        growth = 1 + direction.norm() * self.w.norm() / gain
        return judge(self, z - torch.tanh(a)[:, None] * direction, z, [root], growth)

    def extra_repr(self) -> str:
        return str(len(self.w))


def invertible_product(t: Tensor) -> tuple[Tensor, Tensor]:
    """φ with 1 + tφ = g > 0, and g = e^{asinh t}, which rounding does not make zero however negative t is."""
    gain = torch.asinh(t).exp()
    return (1 + gain) / (1 + (1 + t * t).sqrt()), gain


def slope(gain: Tensor, h: Tensor) -> Tensor:
    """d/da of a + (g - 1) tanh(a), as a sum of positive terms: h² + g(1 - h²), h = tanh(a)."""
    return h * h + gain * (1 - h * h)


def solve_tanh(solver: Bisection, gain: Tensor, alpha: Tensor) -> tuple[Tensor, Root]:
    """The solution a of a + (g - 1) tanh(a) = α, differentiable in g and α, and the report of the bisection."""
    with torch.no_grad():
        radius = (gain - 1).abs()
        root = solver.solve(lambda a: a + (gain - 1) * torch.tanh(a) - alpha, alpha - radius, alpha + radius)

    def equation_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(a)
        return a + (gain - 1) * h - alpha, slope(gain, h)

    return implicit(root.value, equation_and_slope), root


def judge(bijection: Bijection, x: Tensor, z: Tensor, roots: list[Root], growth: Tensor) -> Root:
    """The report of an inverse x of z: bisection steps, residual and error bound, where Lip(f⁻¹) <= growth."""
    residual = (bijection(x) - z).norm(dim=1)
    iterations = torch.stack([root.iterations for root in roots]).sum(0)
    converged = torch.stack([root.converged for root in roots]).all(0)
    return Root(x, iterations, residual, growth * residual, converged)


def check_vectors(bijection: Bijection, x: Tensor, features: int) -> None:
    """Raise a `ShapeError` unless x is ``(batch, features)``."""
    if x.ndim != 2 or x.shape[1] != features:
        name = type(bijection).__name__
        raise ShapeError(f"{name}({features}) takes vectors (batch, {features}), not {tuple(x.shape)}.")


def raise_unless_converged(bijection: Bijection, root: Root) -> None:
    """Raise an `InversionError` unless the solver converged for every sample."""
    if bool(root.converged.all()):
        return
    worst = int(torch.nan_to_num(root.error_bound, nan=math.inf).argmax())
    error = InversionError(
        f"the inverse of {type(bijection).__name__} did not reach its tolerance: {int((~root.converged).sum())} of "
        f"{len(root.converged)} samples, sample {worst} within {root.error_bound[worst].item():.3g} after "
        f"{int(root.iterations[worst])} bisection steps. Raise max_iterations of its Bisection or loosen the "
        "tolerance; NaN means that the input or a parameter is not finite."
    )
    error.block = bijection
    raise error
