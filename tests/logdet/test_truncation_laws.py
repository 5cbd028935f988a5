"""Truncation laws: survival, quantile, mean; systematic draws have the right marginals and a constant total."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from contraflow.errors import DomainError
from contraflow.logdet import Geometric, Poisson
from contraflow.logdet.laws import draw_terms, systematic_uniforms

LAWS = [Geometric(0.5), Geometric(0.1), Geometric(0.9), Poisson(2.0), Poisson(0.3), Poisson(20.0)]
FALSE_ALARM = 1e-5


def mass(law, k: int) -> float:
    return law.survival(k) - law.survival(k + 1)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_survival_is_that_of_scipy(law):
    frozen = stats.geom(law.p) if isinstance(law, Geometric) else stats.poisson(law.rate)
    for k in range(60):
        assert law.survival(k) == pytest.approx(frozen.sf(k - 1), rel=1e-9)
    assert law.mean == pytest.approx(frozen.mean())


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_quantile_inverts_the_cumulative_law(law):
    u = torch.rand(20_000)
    n = law.quantile(u)
    at_most = torch.tensor([1 - law.survival(k + 1) for k in range(int(n.max()) + 1)])
    assert (at_most[n] >= u - 1e-12).all()
    assert (torch.where(n > 0, at_most[(n - 1).clamp_min(0)], 0) <= u + 1e-12).all()


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("stratified", [True, False])
def test_every_draw_has_the_law_as_its_marginal(law, stratified):
    """χ² over 4000 seeds at one place of the batch; false-alarm rate 1e-5 a case."""
    generator = torch.Generator().manual_seed(3)
    cpu = torch.device("cpu")
    draws = torch.stack(
        [draw_terms(law, 7, stratified=stratified, generator=generator, device=cpu) for _ in range(4000)]
    )
    for place in (0, 4):
        counts = draws[:, place].bincount(minlength=80).double()
        expected = torch.tensor([mass(law, k) for k in range(len(counts))]) * len(draws)
        bulk = expected >= 5
        observed = torch.cat([counts[bulk], counts[~bulk].sum()[None]])
        wanted = torch.cat([expected[bulk], (len(draws) - expected[bulk].sum())[None]])
        wanted = wanted.clamp_min(1e-9)
        statistic = ((observed - wanted).square() / wanted)[wanted > 1e-6].sum()
        assert stats.chi2.sf(statistic.item(), int(bulk.sum())) > FALSE_ALARM


def test_systematic_uniforms_are_uniform_one_by_one():
    """Kolmogorov–Smirnov at every place of a batch of 5, 3000 seeds; false-alarm rate 1e-5 a place."""
    generator = torch.Generator().manual_seed(4)
    draws = torch.stack([systematic_uniforms(5, generator, torch.device("cpu")) for _ in range(3000)])
    for place in range(5):
        assert stats.kstest(draws[:, place].numpy(), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("n", [1, 7, 64])
def test_stratified_counts_stay_within_one_of_their_mean(law, n):
    generator = torch.Generator().manual_seed(5)
    for _ in range(100):
        terms = draw_terms(law, n, stratified=True, generator=generator, device=torch.device("cpu"))
        for k in range(int(terms.max()) + 2):
            assert abs(int((terms >= k).sum()) - n * law.survival(k)) < 1 + 1e-9


def test_independent_counts_do_vary():
    generator, cpu = torch.Generator().manual_seed(6), torch.device("cpu")
    draws = torch.stack(
        [draw_terms(Geometric(0.5), 64, stratified=False, generator=generator, device=cpu) for _ in range(100)]
    )
    totals = (draws >= 2).sum(dim=1)
    assert totals.max() - totals.min() > 10


@pytest.mark.parametrize(("law", "parameter"), [(Geometric, 0.0), (Geometric, 1.0), (Poisson, 0.0), (Poisson, 1e3)])
def test_impossible_laws_are_refused(law, parameter):
    with pytest.raises(DomainError, match="must lie"):
        law(parameter)
