"""The Sylvester flow: tanh along several orthonormal directions."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.linalg import matrix_norm, solve_triangular

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.planar import (
    check_vectors,
    invertible_product,
    judge,
    raise_unless_converged,
    slope,
    solve_tanh,
)
from contraflow.errors import ShapeError
from contraflow.numerics import Bisection, Root, householder, random_reflections

_BISECTION = Bisection()


class Sylvester(Bijection):
    r"""z = x + Q R tanh(R̃ Qᵀx + b); log|det| = Σ_i log(1 + r_ii r̃_ii tanh'(a_i)), a = R̃ Qᵀx + b.

    By Sylvester's identity det(I_D + Q R H R̃ Qᵀ) = det(I_M + H R̃ R), where the last matrix is triangular. Q ``(D, M)``
    has orthonormal columns, parametrised by Householder reflections; R and R̃ are upper triangular. The map is
    invertible if every r_ii r̃_ii > -1. As in `Planar`, the parameters p_ii are unconstrained and
    r_ii = φ(p_ii r̃_ii) p_ii, so that 1 + r_ii r̃_ii = e^{asinh(p_ii r̃_ii)}. R̃ need not be invertible. M = 1 is the
    planar flow. The cost is O(DM) per sample.

    Van den Berg, Hasenclever, Tomczak and Welling 2018 (arXiv:1803.05649) use this map from noise to samples and bound
    both diagonals by tanh. Here `forward` maps data to latent, so densities have a closed form. For samples, `inverse`
    solves M increasing scalar equations one after another: with α = R̃ Qᵀz + b and T = R̃ R,

        a_i + T_ii tanh(a_i) = α_i - Σ_{j>i} T_ij tanh(a_j),  i = M, …, 1,    then    x = z - Q R tanh(a),

    by bisection, with gradients by the implicit function theorem.

    Args:
        features: D, for vectors ``(batch, D)``.
        components: M <= D.
        inverse: tolerance and number of iterations of the bisections.

    Raises:
        ShapeError: M is not in 1 … D, or an input is not ``(batch, D)``.
        InversionError: the inverse did not reach its tolerance.

    >>> flow, x = Sylvester(3, 2), torch.randn(5, 3)
    >>> z, logdet = flow.forward_and_logdet(x)
    >>> torch.allclose(flow.inverse(z), x, atol=1e-5), logdet.shape
    (True, torch.Size([5]))
    """

    def __init__(self, features: int, components: int, inverse: Bisection = _BISECTION) -> None:
        super().__init__()
        if not 1 <= components <= features:
            raise ShapeError(f"Sylvester({features}, {components}): components must lie in 1 … {features}.")
        self.features, self.components = features, components
        self.solver = inverse
        self.reflections = nn.Parameter(random_reflections(features, components))
        #: On and above the diagonal R, with p in place of its diagonal; below the diagonal R̃ᵀ without its diagonal.
        self.triangles = nn.Parameter(torch.randn(components, components) / math.sqrt(components))
        self.diagonal = nn.Parameter(torch.randn(components) / math.sqrt(components))
        self.b = nn.Parameter(torch.zeros(components))

    def factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, R, R̃ and the vector of 1 + r_ii r̃_ii."""
        q = householder(self.reflections, self.features, self.components)
        p = self.triangles.diagonal()
        stretch, gain = invertible_product(p * self.diagonal)
        return q, self.triangles.triu(1) + (stretch * p).diag(), self.triangles.tril(-1).T + self.diagonal.diag(), gain

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_vectors(self, x, self.features)
        q, r, r_tilde, gain = self.factors()
        h = torch.tanh(x @ q @ r_tilde.T + self.b)
        return x + h @ r.T @ q.T, slope(gain, h).log().sum(1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_vectors(self, z, self.features)
        q, r, _, gain = factors = self.factors()
        h, roots = self._solve(factors, z)
        for root in roots:
            raise_unless_converged(self, root)
        return z - h @ r.T @ q.T, -slope(gain, h).log().sum(1)

    @torch.no_grad()
    def solve(self, z: Tensor) -> Root:
        """The inverse with its number of bisection steps, residual ‖z - f(x)‖₂ and error bound, each ``(batch,)``.

        ‖x - x*‖₂ <= (1 + ‖R‖₂ ‖R̃‖₂ ‖(G - N)⁻¹‖₂) · residual, where G is the diagonal matrix of 1 + T_ii and N holds
        |T_ij| above the diagonal: the inverse Jacobian is I - Q R (I + H T)⁻¹ H R̃ Qᵀ, and |(I + H T)⁻¹ H| <= (G - N)⁻¹
        elementwise. No error is raised if the tolerance is not reached.
        """
        check_vectors(self, z, self.features)
        q, r, r_tilde, gain = factors = self.factors()
        h, roots = self._solve(factors, z)
        comparison = gain.diag() - (r_tilde @ r).abs().triu(1)
        amplified = solve_triangular(comparison, torch.ones_like(gain).diag(), upper=True)
        growth = 1 + matrix_norm(r, 2) * matrix_norm(r_tilde, 2) * matrix_norm(amplified, 2)
        return judge(self, z - h @ r.T @ q.T, z, roots, growth)

    def _solve(self, factors: tuple[Tensor, Tensor, Tensor, Tensor], z: Tensor) -> tuple[Tensor, list[Root]]:
        """tanh(a), and the report of the bisection of each component."""
        q, r, r_tilde, gain = factors
        coupling, alpha = r_tilde @ r, z @ q @ r_tilde.T + self.b
        h = z.new_zeros(len(z), 0)
        roots: list[Root] = []
        for i in reversed(range(self.components)):
            a, root = solve_tanh(self.solver, gain[i], alpha[:, i] - h @ coupling[i, i + 1 :])
            h = torch.cat([torch.tanh(a)[:, None], h], dim=1)
            roots.insert(0, root)
        return h, roots

    def extra_repr(self) -> str:
        return f"{self.features}, {self.components}"
