"""A truncation law that each block adapts to the decay of its own series: docs/maths/adaptive-law.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from contraflow.errors import DomainError
from contraflow.logdet.determinants import Determinant
from contraflow.logdet.estimators import Estimate, GeneralEstimator, Linearize, LogDetEstimator, count, roulette
from contraflow.logdet.laws import uniforms
from contraflow.logdet.probes import Probe, Rademacher

#: Terms of the series whose size is tracked; beyond them it is continued geometrically.
LEVELS = 48

#: Candidates for m, the (real) number of terms that nearly every sample computes.
_HEADS = torch.arange(-24, 49) / 2

#: The law learns from each of the first passes, and from one in `EVERY` of the later ones.
BEGINNING = 100
EVERY = 4

#: Factor of the running means at every pass that the law learns from; half of a mean is forgotten in 70 of them.
_MEMORY = 0.99

#: A level's ratio counts once so many rows have reached it.
_ENOUGH = 8.0

#: Largest ρ̂²: q is then at most 0.99, and at most 3,700 terms can be drawn.
_LARGEST_RATE = 0.98
_SMALLEST_RATE = 0.01


class Products(NamedTuple):
    """What one pass over the series measures at a level k, over the rows that computed it.

    Attributes:
        norms: ‖u_k‖₂ with u_k = (Jᵀ)ᵏv, ``(probes, rows)``.
        inner: mean over the probes of vᵀu_k, ``(rows,)``.
    """

    norms: Tensor
    inner: Tensor


class SeriesDecay(nn.Module):
    r"""The decay of one block's series, measured in earlier steps, and the truncation law that follows from it.

        P(term k is computed) = min(1, q^(k-m)), and 1 for k = 1;   q = ρ̂ > ρ̂²

    with ρ̂ an upper estimate of the decay ‖u_{k+1}‖/‖u_k‖, which rises at once and falls slowly, and m the number that
    minimises variance × cost. All of it is stored in buffers, so that a resumed run continues exactly.
    docs/maths/adaptive-law.md. It starts with the paper's 2 exact terms and q = 1/√2.

    Attributes:
        passes: number of training passes so far.
        rows: running count of rows that computed level k, ``(48,)``.
        squares: running sums of ‖u_k‖²/‖v‖² over them.
        before: the same of ‖u_{k-1}‖²/‖v‖², over the rows that computed level k.
        values: the same of (vᵀu_k)²/‖v‖².
        rate: ρ̂².
        law: q and m.
    """

    passes: Tensor
    rows: Tensor
    squares: Tensor
    before: Tensor
    values: Tensor
    rate: Tensor
    law: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.tensor(0))
        for name in ("rows", "squares", "before", "values"):
            self.register_buffer(name, torch.zeros(LEVELS))
        self.register_buffer("rate", torch.tensor(0.5))
        self.register_buffer("law", torch.tensor([0.5**0.5, 3.0]))

    def due(self) -> bool:
        """Counts a training pass; whether to learn from it: from all of the first 100, then from every fourth."""
        number = int(self.passes)
        self.passes += 1
        return number < BEGINNING or number % EVERY == 0

    @torch.no_grad()
    def learn(self, levels: list[Products], scale: float, probes: int, beside: float) -> None:
        """Update the running sums and the law with the products of one pass.

        Args:
            levels: of k = 1, 2, …
            scale: mean of ‖v‖², the number of dimensions.
            probes: number of probes that `inner` averages.
            beside: further products of a step, outside the series, per probe.
        """
        levels = levels[:LEVELS]
        if not levels or not len(levels[0].inner):
            return
        ahead = pad_sequence([level.norms.square().mean(0) for level in levels], batch_first=True) / scale
        inner = pad_sequence([level.inner for level in levels], batch_first=True)
        rows = torch.tensor([len(level.inner) for level in levels]).to(ahead.device, non_blocking=True)
        present = torch.arange(ahead.shape[1], device=ahead.device) < rows[:, None]
        behind = torch.cat([torch.ones_like(ahead[:1]), ahead[:-1]]) * present
        squares, before, values = torch.stack([ahead, behind, inner.square() * (probes / scale)]).sum(dim=2)
        for name, new in {"rows": rows, "squares": squares, "before": before, "values": values}.items():
            buffer = getattr(self, name).mul_(_MEMORY)
            buffer[: len(levels)] += new
        self._follow(_upper_ratio(ahead, behind, rows).to(self.rate))
        self.law.copy_(best_law(*self._sizes(), self.rate, beside))

    def _follow(self, observed: Tensor) -> None:
        """Update ρ̂²: at once up to the observed ratio, slowly down."""
        reliable = self.rows >= _ENOUGH
        reliable[0] = False  # ‖u_1‖/‖v‖ says how large J is, not how its powers decay
        tiny = torch.finfo(self.before.dtype).tiny
        ratios = torch.where(reliable, self.squares / self.before.clamp_min(tiny), self.rate.new_zeros(()))
        observed = torch.maximum(ratios.max(), observed).clamp(_SMALLEST_RATE, _LARGEST_RATE)
        self.rate.copy_(torch.where(observed > self.rate, observed, torch.lerp(self.rate, observed, 1 - _MEMORY)))

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """E‖u_k‖²/‖v‖² and E(vᵀu_k)²/‖v‖² of all levels; an upper extrapolation where few rows were measured."""
        k = torch.arange(LEVELS, device=self.rate.device)
        fall = self.rate**k
        first = self.squares[0] / self.rows[0]
        squares = (self.squares + first * fall) / (self.rows + 1)
        values = (self.values + self.values[0] / self.rows[0] * fall) / (self.rows + 1)
        return squares, values


def _upper_ratio(ahead: Tensor, behind: Tensor, rows: Tensor) -> Tensor:
    """The largest over levels k >= 2 of the 0.9 quantile over rows of ‖u_k‖²/‖u_{k-1}‖²; absent rows are 0 in both."""
    ratios = (ahead / behind.clamp_min(torch.finfo(behind.dtype).tiny)).sort(dim=1, descending=True).values
    last = rows - 1
    quantiles = ratios.gather(1, (last - (0.9 * last).long())[:, None]).squeeze(1)
    return (quantiles * (rows >= _ENOUGH))[1:].max() if len(rows) > 1 else ahead.new_zeros(())


def best_law(squares: Tensor, values: Tensor, rate: Tensor, beside: float) -> Tensor:
    r"""q and m of P_k = min(1, q^(k-m)), P_1 = 1, good for both gradient and value; ``(2,)``.

    q = ρ̂, the minimiser for terms that fall like ρ̂^k. Variance × cost, relative to the variance due to the probes
    alone, is

        (1 + Σ_k (1/P_k - 1) t_k) · C(m) for the gradient and (1 + Σ_k (1/P_k - 1) s_k/(k² t_1)) · C(m) for the value

    with C(m) = beside + Σ_k P_k; m minimises, over a grid, the larger of
    their two ratios to their own minima.

    Args:
        squares: t_k = E‖u_k‖²/‖v‖² for k = 1, 2, …, K; t_0 = 1.
        values: s_k = E(vᵀu_k)²/‖v‖².
        rate: ρ̂², the fall of both beyond K.
        beside: further products of a step, outside the series.
    """
    # In float32 q^72 underflows, and 0 · ∞ would win the argmin.
    squares, values, rate = squares.double(), values.double(), rate.double()
    q = rate.sqrt()
    k = torch.arange(1, len(squares) + 1, device=rate.device)
    heads = _HEADS.to(rate)
    computed = (q.log() * (k - heads[:, None])).exp().clamp_max(1.0)
    computed[:, 0] = 1.0
    tiny = torch.finfo(rate.dtype).tiny
    sizes = torch.stack([squares, values / (k.square() * squares[0].clamp_min(tiny))])
    weights = 1 / computed
    beyond = q / (1 - q)  # both the continuation of Σ P_k and, as rate/q = q, that of Σ size/P_k
    excess = sizes @ (weights - 1).T + sizes[:, -1:] * weights[:, -1] * beyond
    cost = computed.sum(1) + computed[:, -1] * beyond + beside
    scores = (1 + excess) * cost
    regret = (scores / scores.min(dim=1, keepdim=True).values).amax(dim=0)
    return torch.stack([q, heads[regret.argmin()]])


@dataclass(frozen=True)
class AdaptiveRoulette(GeneralEstimator):
    r"""Russian roulette whose truncation law adapts to the decay of each block's own series.

        log|det(I + J)| = E[ Σ_{k=1}^{n} (-1)^(k+1)/k · vᵀJᵏv / P_k ],   P(n >= k) = P_k = min(1, q^(k-m)), P_1 = 1.

    Each block learns its q and m (`SeriesDecay`) from the products of earlier training steps only, so that value and
    gradient stay unbiased. q = ρ̂ > ρ̂² keeps the variance finite where Geometric(0.5) loses it (ρ > 0.71).
    Theorems 1 and 2 of Chen et al., Residual flows for invertible generative modeling, 2019 (arXiv:1906.02735), with
    the optimal law of Rhee and Glynn, Unbiased estimation with square root convergence for SDE models, 2015.
    Derivation: docs/maths/adaptive-law.md.

    Args:
        probe: distribution of v.
        probes: number of probes averaged.
        stratified: draw n over the batch by systematic sampling (constant cost a step) or independently.

    Raises:
        DomainError: fewer than one probe.
    """

    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise DomainError(f"probes={self.probes}: at least 1 is needed.")

    def following(self, decay: SeriesDecay, *, learn: bool) -> LogDetEstimator:
        """The estimator with the current law of `decay`, which it updates if `learn`."""
        return _Following(self, decay, learn)

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        """The estimate with the law that every block starts from, since there is no state outside a block."""
        return self.following(SeriesDecay().to(x), learn=False).estimate_of(determinant, linearize, x, generator)

    def __str__(self) -> str:
        return f"adaptive roulette, {count(self.probes, 'probe')}"


@dataclass(frozen=True)
class _Following(GeneralEstimator):
    """An adaptive roulette with the law of one block, for one pass."""

    settings: AdaptiveRoulette
    decay: SeriesDecay
    learn: bool

    def estimate_of(
        self, determinant: Determinant, linearize: Linearize, x: Tensor, generator: Generator | None = None
    ) -> Estimate:
        settings = self.settings
        q, m = self.decay.law.double().unbind()
        u = uniforms(x.shape[0], stratified=settings.stratified, generator=generator, device=x.device)
        # P(n >= k) = P(1 - u <= q^(k-m)) = min(1, q^(k-m))
        terms = torch.floor(m + torch.log1p(-u) / q.log()).clamp_min(1).long()
        v = settings.probe.sample((settings.probes, *x.shape), x, generator)
        levels: list[Products] = []
        learn = self.learn and self.decay.due()

        def watch(u: Tensor, inner: Tensor) -> None:
            levels.append(Products(torch.linalg.vector_norm(u.detach().flatten(2), dim=2), inner.detach()))

        def coefficients(longest: int) -> Tensor:
            k = torch.arange(1, longest + 1, device=x.device)
            weights = (q ** (m - k)).clamp_min(1.0)
            weights[:1] = 1.0
            return weights.to(x.dtype)

        estimate = roulette(linearize, x, v, terms, coefficients, watch if learn else None, determinant=determinant)
        if learn:
            self.decay.learn(levels, x.shape[1:].numel(), settings.probes, beside=3 + 4 / settings.probes)
        return estimate

    def __str__(self) -> str:
        return str(self.settings)
