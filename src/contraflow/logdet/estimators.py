"""Estimators of log|det(I + J)|: exact, truncated series, Russian roulette."""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, DomainError
from contraflow.logdet.determinants import RESIDUAL, Determinant
from contraflow.logdet.laws import Geometric, TruncationLaw, draw_terms
from contraflow.logdet.probes import Probe, Rademacher
from contraflow.numerics import Vjp, is_batched, transforms_active

# x -> g(x) and u ↦ J_g(x)ᵀu
Linearize = Callable[[Tensor], tuple[Tensor, Vjp]]

# c_1, c_2, …: numbers, or a tensor of them that never leaves its device
Coefficients = Sequence[float] | Tensor

# (u_k, mean over probes of vᵀu_k) of the rows that compute level k
Watch = Callable[[Tensor, Tensor], None]

#: Terms between two checks for samples whose remaining terms vanish.
_BETWEEN_LOOKS = 4


class Estimate(NamedTuple):
    """Value of the log-determinant and what its gradient needs.

    The gradient of the log-determinant of sample i is that of Σ_p ⟨adjoints[p, i], J(x_i) probes[p, i]⟩ with probes
    and adjoints held fixed (docs/maths/neumann-gradient.md).

    Attributes:
        gx: g(x), ``(batch, *event)``.
        value: estimate of log|det(I + J)| in nats, ``(batch,)``.
        probes, adjoints: ``(probes, batch, *event)``.
        order: the order in which `linearize` was given the rows, ``(batch,)``; None for that of x.
        again: computes the same estimate with the same draws at another x, from another `linearize` whose products may
            have a graph; None where the estimator cannot. Second derivatives need it.
    """

    gx: Tensor
    value: Tensor
    probes: Tensor
    adjoints: Tensor
    order: Tensor | None = None
    again: Callable[[Linearize, Tensor], Estimate] | None = None


@dataclass(frozen=True)
class LogDetEstimator(ABC):
    """Computes log|det(I + J)| from products with Jᵀ. docs/extending.md shows how to write one."""

    @abstractmethod
    def estimate(self, linearize: Linearize, x: Tensor, generator: Generator | None = None) -> Estimate:
        """Value, probes and adjoints at x ``(batch, *event)``; differentiable where the products are."""

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        """The same for another log-determinant than log|det(I + J)|, such as that of a monotone block.

        Raises:
            ConfigurationError: the estimator has not overridden this method, and the determinant is another one.
        """
        if determinant is not RESIDUAL:
            raise ConfigurationError(
                f"{self}: {type(self).__name__} estimates log|det(I + J)| only, and this block needs another "
                "log-determinant. Override estimate_of, or use flow.with_logdet(Exact())."
            )
        return self.estimate(linearize, x, generator)

    def of(self, determinant: Determinant) -> LogDetEstimator:
        """This estimator with `determinant` in the place of log|det(I + J)|."""
        return self if determinant is RESIDUAL else _Of(self, determinant)

    @abstractmethod
    def __str__(self) -> str:
        """One phrase for reports."""


@dataclass(frozen=True)
class _Of(LogDetEstimator):
    """An estimator of a given determinant."""

    estimator: LogDetEstimator
    determinant: Determinant

    def estimate(self, linearize: Linearize, x: Tensor, generator: Generator | None = None) -> Estimate:
        return self.estimator.estimate_of(self.determinant, linearize, x, generator)

    def __str__(self) -> str:
        return str(self.estimator)


@dataclass(frozen=True)
class GeneralEstimator(LogDetEstimator):
    """An estimator of every `Determinant`, which writes `estimate_of` alone."""

    def estimate(self, linearize: Linearize, x: Tensor, generator: Generator | None = None) -> Estimate:
        return self.estimate_of(RESIDUAL, linearize, x, generator)

    @abstractmethod
    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate: ...


@dataclass(frozen=True)
class Exact(GeneralEstimator):
    r"""The exact log|det(I + J)|: the dense Jacobian from D products, and its LU factorisation.

    Probes are the unit vectors e_j and adjoints the columns (I + J)⁻ᵀ e_j, since ∂ log|det(I+J)| = tr((I+J)⁻¹ ∂J).
    Cost: D products and O(D³); for small D, and to compare the others with.
    """

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        gx, vjp = linearize(x)
        batch, event = x.shape[0], x.shape[1:]
        size = event.numel()
        basis = unit_vectors(x)
        value, gradient = determinant.exact(vjp(basis).reshape(size, batch, size).transpose(0, 1))
        adjoints = gradient.transpose(0, 1).reshape(size, batch, *event)
        return Estimate(gx, value, basis, adjoints, again=functools.partial(self.estimate_of, determinant))

    def __str__(self) -> str:
        return "exact log-determinant"


def unit_vectors(x: Tensor) -> Tensor:
    """e_1, …, e_D for every row of x, ``(D, batch, *event)``."""
    batch, event = x.shape[0], x.shape[1:]
    size = event.numel()
    return torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *event).expand(size, batch, *event)


@dataclass(frozen=True)
class PowerSeries(GeneralEstimator):
    r"""The power series truncated after n terms, as in i-ResNets: biased by at most D·L^(n+1) / ((n+1)(1-L)).

        log|det(I + J)| ≈ Σ_{k=1}^n (-1)^(k+1)/k · vᵀJᵏv

    Behrmann et al., Invertible residual networks, 2019 (arXiv:1811.00995). The bias is derived in
    docs/maths/russian-roulette.md.

    Args:
        terms: the number of terms n, at least 1.
        probe: distribution of the random vectors v.
        probes: number of random vectors whose estimates are averaged.
    """

    terms: int = 5
    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1

    def __post_init__(self) -> None:
        _at_least("terms", self.terms, 1)
        _at_least("probes", self.probes, 1)

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        return self._with_probes(determinant, self.probe.sample((self.probes, *x.shape), x, generator), linearize, x)

    def _with_probes(self, determinant: Determinant, v: Tensor, linearize: Linearize, x: Tensor) -> Estimate:
        gx, vjp = linearize(x)
        rows = [x.shape[0]] * self.terms
        # The adjoint stops one power earlier: in the mean, Σ_{k<n} (-1)^k (Jᵀ)^k v is the gradient of these n terms.
        value, adjoints = _series(determinant, vjp, v, rows, [1.0] * self.terms, adjoint_terms=self.terms - 1)
        return Estimate(gx, value, v, adjoints, again=functools.partial(self._with_probes, determinant, v))

    def __str__(self) -> str:
        return f"{self.terms} terms (biased), {count(self.probes, 'probe')}"


@dataclass(frozen=True)
class RussianRoulette(GeneralEstimator):
    r"""An unbiased estimate of the whole power series from a random, finite number of terms.

        log|det(I + J)| = E[ Σ_{k=1}^{e+N} (-1)^(k+1)/k · c_k · vᵀJᵏv ],   c_k = 1/P(N >= k - e), 1 for k <= e.

    Chen et al., Residual flows for invertible generative modeling, 2019 (arXiv:1906.02735), Theorems 1 and 2. Every
    sample has its own N, and samples that have computed their terms leave the batch. Derivation:
    docs/maths/russian-roulette.md.

    Args:
        law: law of N, the number of terms after the exact ones.
        exact_terms: e >= 0, the number of terms that every sample computes.
        probe: distribution of the random vectors v.
        probes: number of random vectors whose estimates are averaged.
        stratified: draw N over the batch by systematic sampling, with the same law for each sample and the same cost
            at every step; otherwise independently for each sample.
        series_dtype: dtype of the products of the series; None for that of the flow. ``torch.bfloat16``, for training,
            halves their cost on processors that multiply it twice as fast; rounding then biases value and gradient, by
            far less than the standard deviation of the estimate (docs/decisions/006-training-step.md).

    Raises:
        DomainError: a number below its minimum, or `series_dtype` with a contraction that computes in one dtype only.
    """

    law: TruncationLaw = field(default_factory=Geometric)
    exact_terms: int = 2
    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1
    stratified: bool = True
    series_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        _at_least("exact_terms", self.exact_terms, 0)
        _at_least("probes", self.probes, 1)

    def coefficient(self, k: int) -> float:
        """c_k = 1 / P(term k is computed)."""
        return 1.0 if k <= self.exact_terms else 1 / self.law.survival(k - self.exact_terms)

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        terms = self.exact_terms + draw_terms(
            self.law, x.shape[0], stratified=self.stratified, generator=generator, device=x.device
        )
        v = self.probe.sample((self.probes, *x.shape), x, generator)
        if self.series_dtype is not None:
            linearize = _lowered(linearize, self.series_dtype)
        weights = lambda longest: [self.coefficient(k) for k in range(1, longest + 1)]  # noqa: E731
        return roulette(linearize, x, v, terms, weights, determinant=determinant)

    def __str__(self) -> str:
        products = "" if self.series_dtype is None else f", products in {str(self.series_dtype).removeprefix('torch.')}"
        return f"{self.exact_terms} exact terms + {self.law}, {count(self.probes, 'probe')}{products}"


def _lowered(linearize: Linearize, dtype: torch.dtype) -> Linearize:
    """`linearize` with the products in `dtype`."""

    def lowered(x: Tensor) -> tuple[Tensor, Vjp]:
        gx, vjp = linearize(x)
        return gx, vjp.lowered(dtype)

    return lowered


def roulette(
    linearize: Linearize,
    x: Tensor,
    v: Tensor,
    terms: Tensor,
    coefficients: Callable[[int], Coefficients],
    watch: Watch | None = None,
    *,
    determinant: Determinant = RESIDUAL,
) -> Estimate:
    """The series of every sample up to its own number of terms, or until the remaining terms vanish in rounding.

    They vanish where ‖u_k‖ Σ_{j>k} c_j <= ε ‖u_1‖ with ε of the dtype, since ‖u_j‖ <= ‖u_k‖ for j > k
    (docs/maths/russian-roulette.md). With a graph, a transform of `torch.func` or `watch` all terms are computed.

    Args:
        linearize, x: as for `LogDetEstimator.estimate`.
        v: probes ``(probes, batch, *event)``.
        terms: how many each sample computes, ``(batch,)``.
        coefficients: n ↦ c_k = 1/P(term k is computed) for k = 1, …, n.
        watch: is called with u_k and the mean over probes of vᵀu_k, for the rows that compute level k.
        determinant: the function of J whose series it is.
    """
    # Longest first, so that the unfinished samples are the first rows: a view, not a copy.
    if is_batched(terms):
        raise ConfigurationError(
            "torch.func.vmap(randomness='different') draws a number of terms for every sample and hides its value. "
            "Use flow.with_logdet(Exact()) or PowerSeries, or randomness='same'."
        )
    sorted_terms, order = terms.sort(descending=True, stable=True)
    lengths = sorted_terms.tolist()
    longest = lengths[0] if lengths else 0
    active_rows = [bisect.bisect_right(lengths, -k, key=operator.neg) for k in range(1, longest + 1)]
    back = order.argsort()
    gx, vjp = linearize(x[order])
    weights = coefficients(longest)
    value, adjoints = _series(determinant, vjp, v[:, order], active_rows, weights, adjoint_terms=longest, watch=watch)

    def again(linearize: Linearize, x: Tensor) -> Estimate:
        return roulette(linearize, x, v, terms, coefficients, determinant=determinant)

    return Estimate(gx[back], value[back], v, adjoints[:, back], order, again)


def _series(
    determinant: Determinant,
    vjp: Vjp,
    v: Tensor,
    active_rows: list[int],
    coefficients: Coefficients,
    *,
    adjoint_terms: int,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Σ_{k>=1} a_k c_k v·u_k and Σ_{k>=0} b_k c_k u_k, c_0 = 1, from the same u_k = Jᵀu_{k-1}, u_0 = v.

    a_k and b_k are the determinant's weights: (-1)^(k+1)/k and (-1)^k for log|det(I + J)|.

    A row ends where its remaining terms vanish in rounding. With a graph, a transform of `torch.func` or `watch` all
    terms are computed.
    """
    value = v.new_zeros(v.shape[1])
    adjoints = determinant.gradient_weight(0) * v
    u = v
    unseen = watch is None and not torch.is_grad_enabled() and not transforms_active()
    ending = _Ending(coefficients) if unseen and len(active_rows) > _BETWEEN_LOOKS else None
    for k, (rows, c) in enumerate(zip(active_rows, coefficients, strict=True), start=1):
        rows = min(rows, u.shape[1])
        if not rows:
            break
        u = vjp(u[:, :rows])
        inner = torch.linalg.vecdot(u.flatten(2), v[:, :rows].flatten(2))
        inner = inner[0] if len(inner) == 1 else inner.mean(dim=0)
        if watch is not None:
            watch(u, inner)
        if weight := determinant.value_weight(k):
            value = _accumulated(value, 0, inner, weight * c)
        if k <= adjoint_terms and (weight := determinant.gradient_weight(k)):
            adjoints = _accumulated(adjoints, 1, u, weight * c)
        if ending is not None:
            u = ending.without_ended(k, u)
    return value, adjoints / v.shape[0]


class _Ending:
    """Ends the rows of a series whose remaining terms vanish in rounding: ‖u_k‖ Σ_{j>k} c_j <= ε ‖u_1‖.

    Finished rows after the last unfinished one are dropped, those before it are set to zero. So powers never reach
    subnormal numbers, on which some processors are up to a hundred times slower.
    """

    def __init__(self, coefficients: Coefficients) -> None:
        if isinstance(coefficients, Tensor):
            self._sums: Coefficients = coefficients.flip(0).cumsum(0).flip(0)
        else:
            self._sums = list(itertools.accumulate(reversed(coefficients)))[::-1]
        self._least = torch.empty(0)

    def without_ended(self, k: int, u: Tensor) -> Tensor:
        """u_k ``(probes, rows, *event)`` without the finished rows at every fourth k; u_k itself at others."""
        if k == 1:
            self._least = _lengths(u) * torch.finfo(u.dtype).eps
        if k % _BETWEEN_LOOKS or k >= len(self._sums):
            return u
        # "Not at most" instead of "above": NaN goes on.
        working = ~(_lengths(u) * self._sums[k] <= self._least[: u.shape[1]])
        rows = int(working.nonzero()[-1]) + 1 if bool(working.any()) else 0
        return u[:, :rows] * working[:rows].view(-1, *[1] * (u.ndim - 2))


def _lengths(u: Tensor) -> Tensor:
    """Euclidean norm of all probes of a row together, ``(rows,)``."""
    return torch.linalg.vector_norm(u.transpose(0, 1).flatten(1), dim=1)


def _accumulated(total: Tensor, dim: int, term: Tensor, weight: float | Tensor) -> Tensor:
    """`total` with weight · term added to its first rows along `dim`; in place outside transforms of `torch.func`."""
    if transforms_active():  # vmap cannot add a batched tensor in place to one that is not
        rows, others = total.split([term.shape[dim], total.shape[dim] - term.shape[dim]], dim)
        return torch.cat([rows + weight * term, others + 0 * weight * term[:0].sum()], dim)
    rows = total.narrow(dim, 0, term.shape[dim])
    if isinstance(weight, Tensor):
        rows.addcmul_(term, weight)
    else:
        rows.add_(term, alpha=weight)
    return total


def _at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise DomainError(f"{name}={value}: at least {minimum} is needed.")


def count(n: int, noun: str) -> str:
    """`1 probe`, `2 probes`."""
    return f"{n} {noun}" + ("s" if n != 1 else "")


#: The paper's training estimator: 2 exact terms and Geometric(0.5), four terms expected.
TRAINING = RussianRoulette(law=Geometric(0.5), exact_terms=2)

#: The paper's evaluation estimator: 20 exact terms and the rest by roulette. Draws are independent, so that the spread
#: between rows is a valid standard error (docs/maths/stratified-draws.md).
EVALUATION = RussianRoulette(law=Geometric(0.5), exact_terms=20, stratified=False)
