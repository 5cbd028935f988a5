"""log p(x) with an error bar: coverage, targets, budgets, and the same numbers for the same seed."""

from __future__ import annotations

import math
import sys
from functools import partial

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from contraflow import AdaptiveRoulette, Exact, Flow, RussianRoulette, residual_flow
from contraflow.errors import ConfigurationError
from contraflow.evaluation import score
from contraflow.lipschitz import LipschitzLayer
from contraflow.numerics import fixed_means, two_stage_means

#: Noisy on purpose: few exact terms, so that the standard errors are far from zero.
NOISY = RussianRoulette(exact_terms=3)


def steep_flow(dimensions: int = 6) -> Flow:
    flow = residual_flow((dimensions,), blocks=2, hidden=(dimensions,), logdet=Exact())
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, LipschitzLayer):
                module.weight.normal_()
        flow.log_prob(torch.randn(100, dimensions))
    return flow


def within_binomial(hits: int, trials: int, probability: float = 0.95) -> bool:
    """Two-sided, false alarms at most 1 in 1,000."""
    return binom.ppf(0.0005, trials, probability) <= hits <= binom.ppf(0.9995, trials, probability)


@pytest.mark.parametrize("options", [{"probes": 12}, {"target_error": 0.03}, {"target_error": 0.1}])
def test_the_95_percent_interval_covers_the_exact_value_in_95_percent_of_cases(options):
    """600 points, each against the dense Jacobian in float64; false alarm rate 1e-3 per parametrisation, plus what
    the draws' departure from a normal law moves the coverage, which the seed fixes."""
    flow = steep_flow()
    x = torch.randn(600, 6)
    with torch.no_grad():
        exact = flow.log_prob(x)
    estimate = flow.log_prob_estimate(
        x, estimator=NOISY, budget=4000, generator=torch.Generator().manual_seed(1), **options
    )
    assert estimate.reached.all()
    low, high = estimate.interval(0.95)
    hits = int(((low <= exact) & (exact <= high)).sum())
    assert within_binomial(hits, 600), hits
    z = (estimate.value - exact) / estimate.standard_error
    assert abs(z.mean().item()) < 4.5 * z.std().item() / math.sqrt(600)  # unbiased; false alarms 7e-6


def test_stopping_at_a_running_standard_error_would_not_cover():
    """Why the procedure has two stages: the naive rule, on normal draws, covers far less than 95 %."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 400, generator=generator)
    counts = torch.arange(1, 401)
    mean = draws.cumsum(1) / counts
    error = ((draws.square().cumsum(1) / counts - mean.square()) / (counts - 1).clamp_min(1)).clamp_min(0).sqrt()
    stopped = ((error <= 0.3) & (counts >= 3)).float().argmax(dim=1)[:, None]
    naive = (mean.gather(1, stopped).abs() <= 2.2 * error.gather(1, stopped)).double().mean().item()
    assert naive < 0.9

    def draw(rows: Tensor) -> Tensor:
        return torch.randn(len(rows), generator=generator)

    estimate = two_stage_means(draw, 4000, 0.3, 10_000, 4096)
    from scipy.stats import t

    hits = int((estimate.value.abs() <= t.ppf(0.975, 15) * estimate.standard_error).sum())
    assert within_binomial(hits, 4000), hits
    assert (estimate.standard_error <= 0.3).all()


def test_the_number_of_draws_follows_each_samples_own_noise():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.0, 0.1, 1.0, 3.0])
    estimate = two_stage_means(
        lambda rows: spread[rows] * torch.randn(len(rows), generator=generator), 4, 0.1, 100_000, 1000
    )
    assert estimate.draws[0] == estimate.draws[1] == 4
    assert estimate.draws[2] < estimate.draws[3]
    assert 30 < estimate.draws[2] < 300


def test_the_budget_is_not_exceeded_and_its_exhaustion_is_reported():
    flow = steep_flow()
    twin = flow.log_prob_estimate(torch.randn(5, 6), target_error=1e-9, budget=40, estimator=NOISY)
    assert not twin.reached.any()
    assert (twin.probes == 24).all()
    assert (twin.standard_error > 1e-9).all()


def test_an_exact_estimator_has_no_error():
    flow = steep_flow()
    x = torch.randn(7, 6)
    estimate = flow.log_prob_estimate(x, target_error=1e-6, estimator=Exact())
    with torch.no_grad():
        torch.testing.assert_close(estimate.value, flow.log_prob(x))
    assert (estimate.standard_error < 1e-12).all()
    assert (estimate.probes == 4).all()


@pytest.mark.parametrize("make", [partial(RussianRoulette, exact_terms=2), AdaptiveRoulette])
def test_the_same_seed_gives_the_same_numbers_and_a_stratified_roulette_is_made_independent(make):
    flow, x = steep_flow(), torch.randn(9, 6)
    runs = [
        flow.log_prob_estimate(
            x,
            target_error=0.1,
            estimator=make(stratified=stratified),
            generator=torch.Generator().manual_seed(3),
        )
        for stratified in (False, True)
    ]
    assert torch.equal(runs[0].value, runs[1].value)
    assert torch.equal(runs[0].standard_error, runs[1].standard_error)


def test_one_probe_has_no_standard_error_and_an_empty_batch_works():
    flow = steep_flow()
    assert flow.log_prob_estimate(torch.randn(3, 6), probes=1).standard_error.isnan().all()
    for options in ({"probes": 3}, {"target_error": 0.1}):
        assert flow.log_prob_estimate(torch.zeros(0, 6), **options).value.shape == (0,)


def test_a_mean_of_fixed_draws_equals_the_mean_of_log_prob():
    flow, x = steep_flow(), torch.randn(300, 6)
    estimator = RussianRoulette(exact_terms=2, stratified=False)
    estimate = flow.log_prob_estimate(x, probes=4, estimator=estimator, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        values = torch.stack([flow.with_logdet(estimator).log_prob(x, generator=generator) for _ in range(4)])
    torch.testing.assert_close(estimate.value, values.mean(dim=0))
    torch.testing.assert_close(estimate.standard_error, values.std(dim=0) / 2)


def test_score_reaches_a_target_row_by_row():
    flow, x = steep_flow(), torch.randn(50, 6)
    scores = score(flow, x, estimator=NOISY, target_error=0.1, batch_size=20)
    assert scores.reached.all()
    assert (scores.standard_error <= 0.1).all()
    assert scores.draws == scores.probes.max()
    assert len(scores.probes) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_error": 0.1, "probes": 3}, "exclude each other"),
        ({"target_error": 0.0}, "positive"),
        ({"target_error": float("nan")}, "positive"),
        ({"probes": 0}, "at least 1"),
        ({"target_error": 0.1, "budget": 19}, "at least 20"),
        ({"probes": 2, "batch_size": -1}, "batch_size=-1"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        steep_flow().log_prob_estimate(torch.randn(2, 6), **options)


def test_fixed_means_count_every_draw():
    seen: list[int] = []
    estimate = fixed_means(lambda rows: seen.extend(rows.tolist()) or rows.double(), 3, 5, 4)
    assert sorted(seen) == [0] * 5 + [1] * 5 + [2] * 5
    assert torch.equal(estimate.value, torch.arange(3.0))


def test_an_interval_without_scipy_names_the_extra(monkeypatch):
    estimate = steep_flow().log_prob_estimate(torch.randn(2, 6), probes=2, estimator=NOISY)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'contraflow\[intervals\]'"):
        estimate.interval()
