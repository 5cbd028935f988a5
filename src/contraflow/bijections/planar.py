"""The planar flow: one tanh along one direction."""

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

    Invertible where wᵀû > -1. Any u is taken, and shortened or lengthened to û = φ(wᵀu) u with

        φ(t) = (1 + e^{asinh t}) / (1 + √(1 + t²)),    so that    1 + wᵀû = e^{asinh(wᵀu)} > 0.

    Every allowed û comes from one u. O(D) a sample.

    Rezende and Mohamed 2015 (arXiv:1505.05770) map noise to samples so, for variational inference, and constrain û by
    another formula. Here, as everywhere, `forward` goes from data to latent: densities are in closed form. `inverse`,
    for samples, solves one increasing scalar equation a sample: with c = wᵀû and α = wᵀz + b,

        a + c tanh(a) = α,  |a - α| <= |c|,    then    x = z - û tanh(a),

    by bisection, with gradients by the implicit function theorem.

    Args:
        features: D, for vectors ``(batch, D)``.
        inverse: how exactly the equation is solved.

    Raises:
        ShapeError: other inputs.
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
        """The inverse with halvings, residual ‖z - f(x)‖₂ and error bound, each ``(batch,)``; raises nothing.

        ‖x - x*‖₂ <= (1 + ‖û‖‖w‖ / (1 + wᵀû)) · residual: the inverse Jacobian is I - û h' wᵀ / (1 + h' wᵀû), h' <= 1.
        """
        check_vectors(self, z, len(self.w))
        direction, gain = self.direction_and_gain()
        a, root = solve_tanh(self.solver, gain, z @ self.w + self.b)
        growth = 1 + direction.norm() * self.w.norm() / gain
        return judge(self, z - torch.tanh(a)[:, None] * direction, z, [root], growth)

    def extra_repr(self) -> str:
        return str(len(self.w))


def invertible_product(t: Tensor) -> tuple[Tensor, Tensor]:
    """φ with 1 + tφ = g > 0, and g = e^{asinh t}; no t is so negative that rounding makes g zero."""
    gain = torch.asinh(t).exp()
    return (1 + gain) / (1 + (1 + t * t).sqrt()), gain


def slope(gain: Tensor, h: Tensor) -> Tensor:
    """d/da of a + (g - 1) tanh(a), as a sum of positive terms: h² + g(1 - h²), h = tanh(a)."""
    return h * h + gain * (1 - h * h)


def solve_tanh(solver: Bisection, gain: Tensor, alpha: Tensor) -> tuple[Tensor, Root]:
    """a with a + (g - 1) tanh(a) = α, differentiable in g and α, and how it was found."""
    with torch.no_grad():
        radius = (gain - 1).abs()
        root = solver.solve(lambda a: a + (gain - 1) * torch.tanh(a) - alpha, alpha - radius, alpha + radius)

    def equation_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(a)
        return a + (gain - 1) * h - alpha, slope(gain, h)

    return implicit(root.value, equation_and_slope), root


def judge(bijection: Bijection, x: Tensor, z: Tensor, roots: list[Root], growth: Tensor) -> Root:
    """An inverse x of z with its halvings, residual and error bound, where Lip(f⁻¹) <= growth."""
    residual = (bijection(x) - z).norm(dim=1)
    iterations = torch.stack([root.iterations for root in roots]).sum(0)
    converged = torch.stack([root.converged for root in roots]).all(0)
    return Root(x, iterations, residual, growth * residual, converged)


def check_vectors(bijection: Bijection, x: Tensor, features: int) -> None:
    """Nothing where x is ``(batch, features)``, else a `ShapeError`."""
    if x.ndim != 2 or x.shape[1] != features:
        name = type(bijection).__name__
        raise ShapeError(f"{name}({features}) takes vectors (batch, {features}) and got {tuple(x.shape)}.")


def raise_unless_converged(bijection: Bijection, root: Root) -> None:
    """Nothing where every sample arrived, else an `InversionError`."""
    if bool(root.converged.all()):
        return
    worst = int(torch.nan_to_num(root.error_bound, nan=math.inf).argmax())
    error = InversionError(
        f"the inverse of {type(bijection).__name__} did not reach its tolerance: {int((~root.converged).sum())} of "
        f"{len(root.converged)} samples, sample {worst} within {root.error_bound[worst].item():.3g} after "
        f"{int(root.iterations[worst])} halvings. Raise max_iterations of its Bisection or loosen the tolerance; NaN "
        "means that the input or a parameter is not finite."
    )
    error.block = bijection
    raise error
