"""The adaptive law: unbiased while it learns, finite where Geometric(0.5) is not, exact on resume, ρ̂² < q always."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch import Generator, Tensor, nn

from contraflow import EVALUATION, TRAINING, AdaptiveRoulette, Exact, ModuleContraction, ResidualBlock, residual_flow
from contraflow.bijections import with_logdet
from contraflow.errors import DomainError
from contraflow.lipschitz import LipschitzMLP
from contraflow.logdet import GRADIENTS, SeriesDecay
from contraflow.logdet.adaptive import BEGINNING, EVERY, LEVELS, Products, best_law
from contraflow.logdet.probes import Gaussian
from contraflow.runs import Recipe
from contraflow.testing import check_bijection
from contraflow.training import TrainingSettings, TrainingState, load_checkpoint, save_checkpoint, train


def linear_block(matrix: Tensor, gradient: str = "dual", **settings) -> ResidualBlock:
    module = nn.Linear(*matrix.shape, bias=False)
    with torch.no_grad():
        module.weight.copy_(matrix)
    return ResidualBlock(ModuleContraction(module, 0.99), AdaptiveRoulette(**settings), gradient=gradient)


def symmetric(size: int, rho: float) -> Tensor:
    """Symmetric, with eigenvalues spread evenly over [-ρ, ρ]."""
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=Generator().manual_seed(1)))
    return q @ torch.diag(torch.linspace(-rho, rho, size)) @ q.T


def taught(block: ResidualBlock, x: Tensor, steps: int = 100) -> SeriesDecay:
    generator = Generator().manual_seed(2)
    for _ in range(steps):
        block.forward_and_logdet(x, generator=generator)
    assert block.decay is not None
    return block.decay


def limit(numbers: int, calls: int) -> float:
    """Of all |z| at a false-alarm rate of 1e-5: Student's t, as the spread is estimated."""
    return scipy.stats.t.isf(1e-5 / (2 * numbers), calls - 1)


@functools.cache
def taught_at_095() -> SeriesDecay:
    return taught(linear_block(torch.eye(1) * 0.95), torch.zeros(64, 1), steps=40)


def z_scores(block: ResidualBlock, x: Tensor, calls: int) -> Tensor:
    """Of value and of every weight's gradient, over calls between which a block in training mode goes on learning."""
    weight = block.g.module.weight
    draws, generator = [], Generator().manual_seed(3)
    for _ in range(calls):
        value = block.forward_and_logdet(x, generator=generator)[1].mean()
        (grad,) = torch.autograd.grad(value, weight)
        draws.append(torch.cat([value.detach()[None], grad.flatten()]))
    found = torch.stack(draws)
    matrix = torch.eye(len(weight)) + weight.detach()
    truth = torch.cat([torch.linalg.slogdet(matrix)[1][None], torch.linalg.inv(matrix).T.flatten()])
    return (found.mean(0) - truth).abs() / (found.std(0) / math.sqrt(calls))


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_value_and_gradient_are_unbiased_while_it_adapts(rho):
    """z-tests from the very first step on; false-alarm rate 1e-5 a case, shared by value and nine weights."""
    block = linear_block(symmetric(3, rho))
    assert z_scores(block, torch.zeros(32, 3), calls=120).max() < limit(10, 120)
    assert (block.decay.law - SeriesDecay().law).abs().max() > 0.1  # it did adapt


def test_unbiased_in_several_probes_and_independent_draws():
    """As above, false-alarm rate 1e-5."""
    block = linear_block(symmetric(3, 0.6), probes=2, probe=Gaussian(), stratified=False)
    assert z_scores(block, torch.zeros(32, 3), calls=120).max() < limit(10, 120)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(("rho", "law", "rows"), [(0.3, (0.3, 1.0), 2000), (0.8, (0.8, 2.0), 300)])
def test_the_weights_of_a_tail_that_matters_are_right(gradient, rho, law, rows):
    """z-tests with independent draws under a fixed law; false-alarm rate 1e-5 a case, shared by value and weights.

    The law computes one or two terms always, and both eigenvalues are ρ, so that the diagonal of J brings no noise of
    the probes: weights c_k > 1 that are a tenth too small put the value 15 to 19 standard errors off, limit 5.6.
    """
    block = linear_block(torch.tensor([[rho, 0.1], [0.0, rho]]), gradient, stratified=False)
    block.decay.law.copy_(torch.tensor(law))
    block.eval()
    assert z_scores(block, torch.zeros(rows, 2), calls=40).max() < limit(5, 40)
    assert block.decay.law.tolist() == list(law)


def second_moments(weights: Tensor, a: Tensor) -> list[float]:
    """E[Z²] up to growing horizons: Σ_k c_k a_k² + 2 Σ_{j<k} c_j a_j a_k (docs/maths/russian-roulette.md)."""
    total = a.flip(0).cumsum(0).flip(0)
    parts = weights * a * (2 * total - a)
    return [parts[:n].sum().item() for n in (100, 200, 400)]


def test_variance_at_095_is_finite_where_that_of_geometric_explodes():
    """J = 0.95 in one dimension: second moments of the gradient to 100, 200 and 400 terms, without any draw."""
    rho, k = 0.95, torch.arange(1.0, 401)
    q, m = taught_at_095().law.tolist()
    ours = second_moments((q ** (m - k)).clamp_min(1), (-rho) ** k)
    paper = second_moments(torch.tensor([TRAINING.coefficient(int(one)) for one in k]), (-rho) ** k)
    assert ours[2] == pytest.approx(ours[1], rel=1e-3)
    assert paper[1] > 1e10 * paper[0]
    assert paper[2] > 1e20 * paper[1]


def test_drawn_second_moments_at_095_agree_and_the_paper_has_a_heavy_tail():
    """The largest of 20,000 draws holds a visible share of Geometric(0.5)'s second moment, and next to none of ours.

    ρ = 0.95 in one dimension, where the probes add nothing. Fixed seed: a shown contrast, no test with a rate.
    """
    decay, x, share = taught_at_095(), torch.zeros(20_000, 1), {}
    for name, estimator in (
        ("ours", AdaptiveRoulette(stratified=False).following(decay, learn=False)),
        ("paper", replace(TRAINING, stratified=False)),
    ):
        found = estimator.estimate(
            lambda x: (0.95 * x, lambda u: 0.95 * u), x, Generator().manual_seed(4)
        ).adjoints.square()
        share[name] = (found.max() / found.sum()).item()
    assert share["ours"] < 0.01
    assert share["paper"] > 0.2


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("size", [1, 16])
def test_q_stays_above_rho_squared_at_every_step(size, rho):
    block, x = linear_block(symmetric(size, rho)), torch.zeros(16, size)
    generator = Generator().manual_seed(5)
    for step in range(25):
        block.forward_and_logdet(x, generator=generator)
        q, rate = block.decay.law[0].item(), block.decay.rate.item()
        assert rate < q < 1
        assert block.decay.law.isfinite().all()
        if step >= 10:
            assert rho**2 < q


def test_it_is_quick_to_rise_and_slow_to_fall():
    def levels(rho: float) -> list[Products]:
        return [Products(torch.full((1, 64), rho**k), torch.full((64,), rho**k)) for k in range(1, 7)]

    decay = SeriesDecay()

    def rate_after(passes: int, rho: float) -> float:
        for _ in range(passes):
            decay.learn(levels(rho), scale=1.0, probes=1, beside=7.0)
        return decay.rate.item()

    assert rate_after(300, 0.3) == pytest.approx(0.09, abs=0.05)
    assert rate_after(1, 0.95) == pytest.approx(0.95**2, rel=1e-6)
    assert rate_after(3, 0.3) > 0.8


def test_it_learns_from_the_first_passes_and_then_from_one_in_four():
    block, x = linear_block(symmetric(2, 0.3)), torch.zeros(8, 2)
    learned = []
    for _ in range(BEGINNING + 2 * EVERY):
        before = block.decay.rows.clone()
        block.forward_and_logdet(x)
        learned.append(not torch.equal(before, block.decay.rows))
    assert learned == [True] * BEGINNING + 2 * ([True] + [False] * (EVERY - 1))


def test_a_tenth_of_slow_samples_is_enough_to_raise_it():
    """A high quantile over samples: the mean would put ρ̂² near 0.3."""
    norms = torch.tensor([0.1] * 56 + [0.95] * 8)
    levels = [Products(norms[None] ** k, norms**k) for k in (1, 2, 3)]
    decay = SeriesDecay()
    decay.learn(levels, scale=1.0, probes=1, beside=7.0)
    assert decay.rate.item() == pytest.approx(0.95**2, rel=1e-6)


def test_the_first_level_says_nothing_about_the_decay():
    """‖u_1‖/‖v‖ = 0.95, and each further term a tenth of the one before."""
    levels = [Products(torch.full((1, 64), 0.95 * 0.1 ** (k - 1)), torch.full((64,), 0.1**k)) for k in (1, 2, 3)]
    decay = SeriesDecay()
    decay.learn(levels, scale=1.0, probes=1, beside=7.0)
    assert decay.rate.item() <= 0.5


def test_few_terms_where_rho_is_small_and_many_where_it_is_not():
    def terms(rho: float) -> float:
        q, m = taught(linear_block(symmetric(16, rho)), torch.zeros(64, 16), 50).law.tolist()
        return sum(1.0 if k == 1 else min(1.0, q ** (k - m)) for k in range(1, 1000))

    assert terms(0.1) < 3
    assert terms(0.9) > 8


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.8])
@pytest.mark.parametrize("beside", [1.0, 7.0])
@pytest.mark.parametrize("common", [3, 300])
def test_the_law_is_the_best_of_a_finer_grid(rate, beside, common):
    """Against an independent sum to 2,000 terms, within four per cent (a step of m is a half)."""
    k = torch.arange(1.0, 2001)
    t = rate**k
    s = common * rate**k
    s[0] = t[0]

    def scores(q: float, m: float) -> tuple[float, float]:
        p = (q ** (k - m)).clamp_max(1)
        p[0] = 1
        excess = [((1 / p - 1) * size).nan_to_num(0, 0, 0).sum().item() for size in (t, s / (k**2 * t[0]))]
        return (1 + excess[0]) * (p.sum().item() + beside), (1 + excess[1]) * (p.sum().item() + beside)

    q, m = best_law(t[:LEVELS], s[:LEVELS], torch.tensor(rate), beside).tolist()
    assert q == pytest.approx(math.sqrt(rate))
    grid = [scores(q, one / 10) for one in range(-120, 240)]
    least = [min(column) for column in zip(*grid, strict=True)]
    regrets = [max(one / best for one, best in zip(pair, least, strict=True)) for pair in (scores(q, m), *grid)]
    assert regrets[0] <= 1.04 * min(regrets[1:])


def test_nothing_is_learned_without_gradients_in_evaluation_or_by_other_estimators():
    block, x = linear_block(symmetric(4, 0.5)), torch.randn(32, 4)
    taught(block, x, 5)
    before = copy.deepcopy(block.decay.state_dict())
    with torch.no_grad():
        block.forward_and_logdet(x)
    block.forward(x)
    block.inverse(x)
    with_logdet(block, EVALUATION).forward_and_logdet(x)
    block.eval().forward_and_logdet(x)
    assert all(torch.equal(value, before[name]) for name, value in block.decay.state_dict().items())
    block.train().forward_and_logdet(x)
    assert not torch.equal(block.decay.rows, before["rows"])


def test_learning_takes_no_randomness_and_changes_no_draw_of_its_own_step():
    g, x = LipschitzMLP(3, (8,)), torch.randn(16, 3)
    results = []
    for training in (True, False):
        block = ResidualBlock(g, AdaptiveRoulette()).train(training)
        generator = Generator().manual_seed(6)
        results.append((block.forward_and_logdet(x, generator=generator)[1], generator.get_state()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_state_dict_and_deepcopy_carry_what_was_learned():
    block, x = linear_block(symmetric(4, 0.8)), torch.randn(32, 4)
    block.decay.passes.fill_(BEGINNING - 20)
    taught(block, x, 21)
    loaded = linear_block(torch.zeros(4, 4))
    loaded.load_state_dict(block.state_dict(), strict=True)
    for twin in (loaded, copy.deepcopy(block)):
        original = copy.deepcopy(block)
        for _ in range(EVERY):
            values = [one.forward_and_logdet(x, generator=Generator().manual_seed(7))[1] for one in (original, twin)]
            assert torch.equal(*values)
        for name, value in original.decay.state_dict().items():
            assert torch.equal(value, twin.decay.state_dict()[name]), name


def test_training_resumes_exactly_with_the_state(tmp_path):
    settings = TrainingSettings(steps=8, batch_size=16)
    data = torch.randn(64, 2)

    def start() -> TrainingState:
        torch.manual_seed(0)
        flow = residual_flow((2,), blocks=2, hidden=(8,), logdet=AdaptiveRoulette())
        for name, value in flow.named_buffers():
            if name.endswith("decay.passes"):
                value.fill_(BEGINNING - 2)  # so that there are steps after which nothing is learned
        return TrainingState.begin(flow, settings, 0)

    whole = start()
    losses = [record.loss for record in train(whole, data, settings)]
    first = start()
    before = [record.loss for record in train(first, data, replace(settings, steps=4))]
    save_checkpoint(tmp_path, first, {})
    second = start()
    load_checkpoint(tmp_path).restore(second)
    assert before + [record.loss for record in train(second, data, settings)] == losses
    for name, value in whole.flow.state_dict().items():
        assert torch.equal(value, second.flow.state_dict()[name]), name


def test_with_logdet_shares_a_state_that_is_there_and_starts_one_that_is_not():
    plain = ResidualBlock(LipschitzMLP(2, (4,)))
    adaptive = with_logdet(plain, AdaptiveRoulette())
    assert plain.decay is None
    assert "decay.law" not in plain.state_dict()
    assert isinstance(adaptive.decay, SeriesDecay)
    assert with_logdet(adaptive, Exact()).decay is adaptive.decay
    assert with_logdet(adaptive, AdaptiveRoulette(probes=2)).decay is adaptive.decay


def test_a_block_with_a_state_keeps_all_laws_of_a_bijection():
    check_bijection(ResidualBlock(LipschitzMLP(3, (8,)), AdaptiveRoulette()), torch.randn(5, 3))


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches_are_fine(rows):
    block = linear_block(symmetric(3, 0.5))
    for _ in range(20):
        value = block.forward_and_logdet(torch.zeros(rows, 3))[1]
    assert value.shape == (rows,)
    assert block.decay.law.isfinite().all()


def test_a_zero_jacobian_is_no_trouble():
    block = linear_block(torch.zeros(3, 3))
    decay = taught(block, torch.zeros(16, 3), 30)
    assert all(one.isfinite().all() for one in decay.buffers())


def test_single_and_double_precision_may_meet():
    """A block made under float32 that computes in float64, and the other way round."""
    block = linear_block(symmetric(3, 0.5))
    block.decay.float()
    value = block.forward_and_logdet(torch.zeros(8, 3))[1]
    assert value.dtype == torch.float64
    block.float().decay.double()
    assert block.forward_and_logdet(torch.zeros(8, 3, dtype=torch.float32))[1].dtype == torch.float32


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 0.98])
def test_single_precision_states_give_the_same_law(rate):
    """In float32 q^72 underflowed, and the law hardly ever computed a second term."""
    t = torch.tensor(rate) ** torch.arange(1.0, LEVELS + 1)
    q, m = best_law(t.float(), t.float(), torch.tensor(rate).float(), 7.0).tolist()
    assert q == pytest.approx(math.sqrt(rate), rel=1e-6)
    assert m == pytest.approx(best_law(t, t, torch.tensor(rate), 7.0)[1].item())


def test_recipes_know_it():
    changed = Recipe().changed({"estimator": {"kind": "adaptive", "probes": 2}})
    assert changed.estimator == AdaptiveRoulette(probes=2)


def test_no_probe_is_refused():
    with pytest.raises(DomainError, match="probes=0"):
        AdaptiveRoulette(probes=0)
