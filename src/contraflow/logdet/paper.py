"""The roulette as the authors of Residual Flows draw it, for comparisons with their figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Generator, Tensor

from contraflow.errors import DomainError
from contraflow.logdet.determinants import Determinant
from contraflow.logdet.estimators import Estimate, GeneralEstimator, Linearize, count, roulette
from contraflow.logdet.laws import Geometric, TruncationLaw, draw_terms
from contraflow.logdet.probes import Gaussian, Probe


@dataclass(frozen=True)
class PaperRoulette(GeneralEstimator):
    r"""The whole series, unbiased, with one random number of terms for the whole batch and Gaussian probes.

        log|det(I + J)| = E[ Σ_{k=1}^{e+N} (-1)^(k+1)/k · c_k · vᵀJᵏv ],   c_k = 1/P(N >= k - e), 1 for k <= e.

    N is drawn once for each block and each batch. `RussianRoulette` has the same mean, but its stratified N and
    Rademacher probes give the mean over a batch a smaller variance, and its cost is the same at every step. Since all
    rows of a batch share N, their spread is no standard error: this estimator is for training.

    Chen et al., Residual flows for invertible generative modeling, 2019 (arXiv:1906.02735), and its code.

    Args:
        law: law of N, the number of terms after the exact ones: Geometric(0.5) in the paper's text, Poisson(2) in the
            authors' code for images.
        exact_terms: e >= 0, the number of terms that are always computed.
        probe: distribution of the random vectors v.
        probes: number of random vectors whose estimates are averaged.

    Raises:
        DomainError: exact_terms is negative, or probes below 1.
    """

    law: TruncationLaw = field(default_factory=Geometric)
    exact_terms: int = 2
    probe: Probe = field(default_factory=Gaussian)
    probes: int = 1

    def __post_init__(self) -> None:
        if self.exact_terms < 0 or self.probes < 1:
            raise DomainError(
                f"exact_terms={self.exact_terms}, probes={self.probes}: at least 0 exact terms and 1 probe are needed."
            )

    def coefficient(self, k: int) -> float:
        """c_k = 1 / P(term k is computed)."""
        return 1.0 if k <= self.exact_terms else 1 / self.law.survival(k - self.exact_terms)

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        drawn = draw_terms(self.law, 1, stratified=False, generator=generator, device=x.device)
        terms = (self.exact_terms + drawn).expand(x.shape[0])
        v = self.probe.sample((self.probes, *x.shape), x, generator)

        def coefficients(longest: int) -> list[float]:
            return [self.coefficient(k) for k in range(1, longest + 1)]

        return roulette(linearize, x, v, terms, coefficients, determinant=determinant)

    def __str__(self) -> str:
        return f"{self.exact_terms} exact terms + {self.law} for the whole batch, {count(self.probes, 'probe')}"
