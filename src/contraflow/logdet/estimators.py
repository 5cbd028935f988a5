"""Estimators of log|det(I + J)| as value objects."""

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

#: Terms between two looks at which samples have nothing left to add.
_BETWEEN_LOOKS = 4


class Estimate(NamedTuple):
    """Value of the log-determinant and what its gradient needs.

    The gradient of the log-determinant of sample i is that of Σ_p ⟨adjoints[p, i], J(x_i) probes[p, i]⟩ with probes
    and adjoints held fixed (docs/maths/neumann-gradient.md).

    Attributes:
        gx: g(x), ``(batch, *event)``.
        value: estimate of log|det(I + J)| in nats, ``(batch,)``.
        probes, adjoints: ``(probes, batch, *event)``.
        order: the order in which `linearize` was given the rows, ``(batch,)``; None for their own.
        again: computes the same estimate with the same draws from another `linearize`, whose products may have a
            graph, at another x; None where the estimator cannot. Second derivatives need it.
    """

    gx: Tensor
    value: Tensor
    probes: Tensor
    adjoints: Tensor
    order: Tensor | None = None
    again: Callable[[Linearize, Tensor], Estimate] | None = None


@dataclass(frozen=True)
class LogDetEstimator(ABC):
    """A way to get log|det(I + J)| from products with Jᵀ. How to write one: docs/extending.md."""

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
    r"""The dense Jacobian from D products, log|det| by LU.

    Probes are the unit vectors e_j and adjoints the columns (I + J)⁻ᵀ e_j, since ∂ log|det(I+J)| = tr((I+J)⁻¹ ∂J).
    Cost: D products and O(D³); the choice for small D, and the oracle for the others.
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
    r"""The series cut after n terms, as in i-ResNets: biased by at most D·L^(n+1) / ((n+1)(1-L)).

        log|det(I + J)| ≈ Σ_{k=1}^n (-1)^(k+1)/k · vᵀJᵏv

    Behrmann et al., Invertible residual networks, 2019 (arXiv:1811.00995). The bias is derived in
    docs/maths/russian-roulette.md.

    Args:
        terms: n >= 1.
        probe: distribution of v.
        probes: number of probes averaged.
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
    r"""The whole series, unbiased, in a random finite number of terms.

        log|det(I + J)| = E[ Σ_{k=1}^{e+N} (-1)^(k+1)/k · c_k · vᵀJᵏv ],   c_k = 1/P(N >= k - e), 1 for k <= e.

    Chen et al., Residual flows for invertible generative modeling, 2019 (arXiv:1906.02735), Theorems 1 and 2. Every
    sample has its own N, and samples that are done leave the batch. Derivation: docs/maths/russian-roulette.md.

    Args:
        law: law of N, the number of terms after the exact ones.
        exact_terms: e >= 0, terms that every sample computes.
        probe: distribution of v.
        probes: number of probes averaged.
        stratified: draw N over the batch by systematic sampling (same marginal law, constant cost a step) or
            independently, as the paper does.
        series_dtype: dtype of the products of the series; None for that of the flow. ``torch.bfloat16`` halves their
            cost on processors that multiply it twice as fast, for training: rounding then biases value and gradient, by
            far less than the probes scatter them (docs/decisions/006-training-step.md).

    Raises:
        DomainError: a number below its least, or `series_dtype` with a contraction that computes in one dtype only.
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
    """The same with the products in `dtype`."""

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
    """The series of every sample to its own number of terms, or until the terms left vanish in rounding.

    They do where ‖u_k‖ Σ_{j>k} c_j <= ε ‖u_1‖ with ε of the dtype, since ‖u_j‖ <= ‖u_k‖ for j > k
    (docs/maths/russian-roulette.md). A graph, a transform of `torch.func` and `watch` see all terms.

    Args:
        linearize, x: as for `LogDetEstimator.estimate`.
        v: probes ``(probes, batch, *event)``.
        terms: how many each sample computes, ``(batch,)``.
        coefficients: n ↦ c_k = 1/P(term k is computed) for k = 1, …, n.
        watch: told u_k and the mean over probes of vᵀu_k, for the rows that compute level k.
        determinant: whose series it is.
    """
    # Longest first, so that the samples still at work are the first rows: a view, not a copy.
    if is_batched(terms):
        raise ConfigurationError(
            "torch.func.vmap(randomness='different') draws a number of terms for every sample that nobody can look at. "
            "Use flow.with_logdet(Exact()) or PowerSeries, or randomness='same'."
        )
    sorted_terms, order = terms.sort(descending=True, stable=True)
    lengths = sorted_terms.tolist()
    longest = lengths[0] if lengths else 0
    at_work = [bisect.bisect_right(lengths, -k, key=operator.neg) for k in range(1, longest + 1)]
    back = order.argsort()
    gx, vjp = linearize(x[order])
    unseen = watch is None and not torch.is_grad_enabled() and not transforms_active()
    weights = coefficients(longest)
    value, adjoints = _series(
        determinant, vjp, v[:, order], at_work, weights, adjoint_terms=longest, watch=watch, ends=unseen
    )

    def again(linearize: Linearize, x: Tensor) -> Estimate:
        return roulette(linearize, x, v, terms, coefficients, determinant=determinant)

    return Estimate(gx[back], value[back], v, adjoints[:, back], order, again)


def _series(
    determinant: Determinant,
    vjp: Vjp,
    v: Tensor,
    at_work: list[int],
    coefficients: Coefficients,
    *,
    adjoint_terms: int,
    watch: Watch | None = None,
    ends: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Σ_{k>=1} a_k c_k v·u_k and Σ_{k>=0} b_k c_k u_k, c_0 = 1, from the same u_k = Jᵀu_{k-1}, u_0 = v.

    a_k and b_k are the determinant's weights: (-1)^(k+1)/k and (-1)^k for log|det(I + J)|.

    With `ends` a row ends where what is left of it vanishes in rounding.
    """
    value = v.new_zeros(v.shape[1])
    adjoints = determinant.gradient_weight(0) * v
    u = v
    ending = _Ending(coefficients) if ends and len(at_work) > _BETWEEN_LOOKS else None
    for k, (rows, c) in enumerate(zip(at_work, coefficients, strict=True), start=1):
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
    """Finds the rows of a series whose remaining terms vanish in rounding: ‖u_k‖ Σ_{j>k} c_j <= ε ‖u_1‖.

    Rows are counted from the first: those after the last unfinished one are dropped, finished ones before it become
    zero. So no power goes on into subnormal numbers, on which processors are up to a hundred times slower.
    """

    def __init__(self, coefficients: Coefficients) -> None:
        if isinstance(coefficients, Tensor):
            self._sums: Coefficients = coefficients.flip(0).cumsum(0).flip(0)
        else:
            self._sums = list(itertools.accumulate(reversed(coefficients)))[::-1]
        self._least = torch.empty(0)

    def without_ended(self, k: int, u: Tensor) -> Tensor:
        """u_k ``(probes, rows, *event)`` of the rows that go on, after a look at it; u_k itself in between."""
        if k == 1:
            self._least = _lengths(u) * torch.finfo(u.dtype).eps
        if k % _BETWEEN_LOOKS or k >= len(self._sums):
            return u
        # "Not at most" instead of "above": NaN goes on.
        working = ~(_lengths(u) * self._sums[k] <= self._least[: u.shape[1]])
        rows = int(working.nonzero()[-1]) + 1 if bool(working.any()) else 0
        return u[:, :rows] * working[:rows].view(-1, *[1] * (u.ndim - 2))


def _lengths(u: Tensor) -> Tensor:
    """Length of all probes of a row together, ``(rows,)``."""
    return torch.linalg.vector_norm(u.transpose(0, 1).flatten(1), dim=1)


def _accumulated(total: Tensor, dim: int, term: Tensor, weight: float | Tensor) -> Tensor:
    """`total` with weight · term added to its first rows along `dim`; in place, but for transforms of `torch.func`."""
    if transforms_active():  # vmap adds nothing that it runs over to a tensor that it does not
        rows, others = total.split([term.shape[dim], total.shape[dim] - term.shape[dim]], dim)
        return torch.cat([rows + weight * term, others + 0 * weight * term[:0].sum()], dim)
    rows = total.narrow(dim, 0, term.shape[dim])
    if isinstance(weight, Tensor):
        rows.addcmul_(term, weight)
    else:
        rows.add_(term, alpha=weight)
    return total


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise DomainError(f"{name}={value}: at least {least} is needed.")


def count(n: int, noun: str) -> str:
    """`1 probe`, `2 probes`."""
    return f"{n} {noun}" + ("s" if n != 1 else "")


#: The paper's training estimator: 2 exact terms and Geometric(0.5), four terms expected.
TRAINING = RussianRoulette(law=Geometric(0.5), exact_terms=2)

#: The paper's evaluation estimator: 20 exact terms and the rest by roulette. Draws are independent, so that the spread
#: between rows is a valid standard error (docs/maths/stratified-draws.md).
EVALUATION = RussianRoulette(law=Geometric(0.5), exact_terms=20, stratified=False)
