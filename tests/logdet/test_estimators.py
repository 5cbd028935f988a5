"""Estimators of log|det(I + J)|: unbiased in value and gradient, biased at a known rate, cheaper by stratification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from contraflow import EVALUATION, TRAINING, AdaptiveRoulette, Exact, ModuleContraction, PowerSeries, RussianRoulette
from contraflow.bijections import Squeeze
from contraflow.errors import DomainError
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP
from contraflow.logdet import GRADIENTS, Geometric, PaperRoulette, Poisson
from contraflow.logdet.estimators import roulette
from contraflow.logdet.probes import Gaussian, PairedRademacher, Rademacher
from contraflow.testing import check_estimator, check_probe_variance, check_unbiased

UNBIASED = {
    "exact": Exact(),
    "training": TRAINING,
    "evaluation": EVALUATION,
    "adaptive, at its start": AdaptiveRoulette(),
    "adaptive, two Gaussian probes, independent draws": AdaptiveRoulette(Gaussian(), 2, stratified=False),
    "geometric, no exact terms": RussianRoulette(Geometric(0.4), 0),
    "geometric, independent draws": RussianRoulette(Geometric(0.5), 2, stratified=False),
    "geometric, Gaussian probes": RussianRoulette(Geometric(0.5), 2, Gaussian()),
    "geometric, three probes": RussianRoulette(Geometric(0.5), 2, Rademacher(), 3),
    "the paper's, in its text": PaperRoulette(),
    "the paper's, in its code for images": PaperRoulette(Poisson(2.0)),
    "poisson": RussianRoulette(Poisson(2.0), 2),
    "poisson, no exact terms": RussianRoulette(Poisson(3.0), 0),
    "poisson, independent draws, Gaussian probes": RussianRoulette(Poisson(2.0), 2, Gaussian(), stratified=False),
}

PAIRED = AdaptiveRoulette(PairedRademacher(), 2)


@pytest.mark.parametrize("name", UNBIASED)
def test_value_and_gradient_are_unbiased(name):
    """z-tests at a false-alarm rate of 1e-5 each case."""
    check_estimator(UNBIASED[name], false_alarm=1e-5)


@pytest.mark.parametrize("estimator", [RussianRoulette(probe=PairedRademacher(), probes=3), PAIRED], ids=str)
def test_paired_probes_are_unbiased(estimator):
    """z-tests at a false-alarm rate of 1e-5 each case; J is dense, so that like signs couple as well."""
    weight = torch.randn(4, 4)
    g, x = linear(0.7 * weight / torch.linalg.matrix_norm(weight, 2)), torch.zeros(1, 4)
    check_unbiased(estimator, g, x, false_alarm=1e-5, calls=150, batch=128)


@pytest.mark.parametrize("event", [(2,), (6,), (1, 4, 4), (3, 4, 6), (8, 3, 3)])
def test_a_pair_is_two_orthogonal_sign_vectors(event):
    v = PairedRademacher().sample((4, 7, *event), torch.zeros(()), torch.Generator().manual_seed(0)).flatten(2)
    assert (v.abs() == 1).all()
    assert ((v[0] * v[1]).sum(1) == 0).all()
    assert ((v[2] * v[3]).sum(1) == 0).all()
    assert not torch.equal(v[0], v[2])
    assert not torch.equal(v[0, 0], v[0, 1])


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_pair_has_no_variance_where_neighbours_couple(squeezed):
    """vᵀAv over 4×4 pixels with A between pixels one step apart, plainly and after a squeeze."""
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    apart = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    a = torch.randn(16, 16) * (apart <= 1)
    v = PairedRademacher().sample((2, 50, *((4, 2, 2) if squeezed else (1, 4, 4))), a, None)
    v = (Squeeze().inverse(v.flatten(0, 1)) if squeezed else v).reshape(2, 50, 16)
    forms = torch.einsum("pbi,ij,pbj->pb", v, a, v)
    if squeezed:  # steps within a patch cancel, those between patches need not
        within = (row[:, None] // 2 == row // 2) & (column[:, None] // 2 == column // 2)
        forms = torch.einsum("pbi,ij,pbj->pb", v, a * within, v)
    torch.testing.assert_close(forms.mean(0), a.trace().expand(50))
    assert forms[0].std() > 1


def test_a_pair_of_random_halves_is_never_worse_than_two_independent_probes():
    """Variance (D - 2)/(2(D - 1)) of one probe's, whichever entries couple; false-alarm rate 1e-5.

    Independent probes, at a half instead of 0.4, would be nine standard errors off.
    """
    a = torch.zeros(6, 6)
    a[0, 2] = 1.0  # as good as any: a fixed pattern of alternating signs would leave all of it
    generator = torch.Generator().manual_seed(0)
    forms = torch.stack(
        [
            torch.einsum("pbi,ij,pbj->pb", v, a, v).mean()
            for v in (PairedRademacher().sample((2, 1, 6), a, generator) for _ in range(2000))
        ]
    )
    square = forms.square()
    z = (square.mean() - 4 / 10).abs() / (square.std() / math.sqrt(2000))
    assert z < 4.42


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_route_is_unbiased_on_our_networks(gradient):
    """z-tests at a false-alarm rate of 1e-5 each case, over all weights, biases, gains and x."""
    torch.manual_seed(2)
    g = LipschitzMLP(3, (5,), bound=0.8)
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(4)
    check_unbiased(TRAINING, g, torch.randn(1, 3), gradient=gradient, calls=200)


@pytest.mark.parametrize("activation", ["clipswish", "concatenated_sine", "cpila"])
def test_concatenating_activations_are_unbiased(activation):
    """As above, over the frequencies of the sine too."""
    torch.manual_seed(2)
    g = LipschitzMLP(3, (6,), bound=0.8, activation=activation)
    check_unbiased(TRAINING, g, torch.randn(1, 3), gradient="dual", calls=200)


@pytest.mark.parametrize("activation", ["lipswish", "concatenated_sine"])
def test_convolutional_networks_are_unbiased_too(activation):
    torch.manual_seed(3)
    g = LipschitzConvNet(2, 4, (3, 3), bound=0.8, activation=activation)
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(4)
    check_unbiased(RussianRoulette(Geometric(0.5), 2, probes=2), g, torch.randn(1, 2, 3, 3), calls=150)


@pytest.mark.parametrize("estimator", [PowerSeries(3), PowerSeries(2, Gaussian()), TRAINING], ids=str)
def test_variance_of_the_probes_falls_as_one_over_their_number(estimator):
    check_probe_variance(estimator, probes=8)


def linear(matrix: torch.Tensor) -> ModuleContraction:
    module = nn.Linear(*matrix.shape, bias=False)
    with torch.no_grad():
        module.weight.copy_(matrix)
    return ModuleContraction(module, min(0.999, torch.linalg.matrix_norm(matrix, 2).item()))


@pytest.mark.parametrize("L", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_truncation_bias_of_the_power_series_falls_like_its_bound(L, sign):
    """J = ±L·I, where Rademacher probes have no variance: bias ≈ D L^(n+1) / ((n+1)(1 ± L)). The rate by regression."""
    g, x = linear(sign * L * torch.eye(4)), torch.zeros(1, 4)
    truth = 4 * math.log1p(sign * L)
    orders = np.arange(10, 60, 5) if L > 0.5 else np.arange(4, 16)
    bias = [abs(GRADIENTS["dual"](g, PowerSeries(int(n)), x, None)[1].item() - truth) for n in orders]
    rate, _ = np.polyfit(orders, np.log(np.array(bias) * (orders + 1)), 1)
    assert rate == pytest.approx(math.log(L), abs=0.02)
    assert all(error <= 4 * L ** (n + 1) / ((n + 1) * (1 - L)) for error, n in zip(bias, orders, strict=True))


def test_the_series_value_in_closed_form():
    """J = a·I: Σ_{k<=n} (-1)^(k+1)/k a^k D without any noise, and its gradient in x is zero."""
    g, x = linear(torch.eye(3) * 0.5), torch.randn(2, 3)
    value = GRADIENTS["dual"](g, PowerSeries(4), x, None)[1]
    expected = 3 * (0.5 - 0.5**2 / 2 + 0.5**3 / 3 - 0.5**4 / 4)
    torch.testing.assert_close(value, torch.full((2,), expected))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_gradient_of_the_power_series_is_that_of_its_own_terms(n):
    """∂/∂a Σ_{k<=n} (-1)^(k+1)/k a^k D = D Σ_{k<n} (-a)^k, by every route."""
    a = 0.7
    for route in GRADIENTS.values():
        g = linear(torch.eye(3) * a)
        route(g, PowerSeries(n), torch.zeros(1, 3), None)[1].sum().backward()
        slope = g.module.weight.grad.diagonal().sum()
        assert slope.item() == pytest.approx(3 * sum((-a) ** k for k in range(n)), rel=1e-12)


def test_the_roulette_weights_are_one_over_the_survival():
    estimator = RussianRoulette(Geometric(0.5), 2)
    assert [estimator.coefficient(k) for k in range(1, 7)] == [1, 1, 1, 2, 4, 8]
    assert RussianRoulette(Poisson(2.0), 0).coefficient(1) == pytest.approx(1 / (1 - math.exp(-2)))


def test_no_term_at_all_is_a_legal_draw():
    """Poisson without exact terms gives N = 0: value 0, gradient that of the first adjoint v."""
    g = linear(torch.eye(2) * 0.5)
    generator = torch.Generator().manual_seed(0)
    value = GRADIENTS["dual"](g, RussianRoulette(Poisson(0.01), 0), torch.zeros(5, 2), generator)[1]
    value.sum().backward()
    assert (value == 0).any()
    assert g.module.weight.grad.isfinite().all()


def test_stratified_draws_reduce_the_variance_of_a_batch_mean():
    """J = 0.6·I has no probe variance, so all that is left is the truncation's; F-test far from its limit."""
    g, x = linear(torch.eye(2) * 0.6), torch.zeros(32, 2)
    spread = {}
    for stratified in (True, False):
        estimator = RussianRoulette(Geometric(0.5), 0, stratified=stratified)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            means = torch.stack([GRADIENTS["dual"](g, estimator, x, generator)[1].mean() for _ in range(300)])
        spread[stratified] = means.var()
    assert spread[True] < spread[False] / 3


def test_adjoints_of_exact_are_the_columns_of_the_inverse():
    matrix = 0.4 * torch.randn(3, 3)
    found = Exact().estimate(lambda x: (x @ matrix.T, lambda u: u @ matrix), torch.zeros(1, 3))
    torch.testing.assert_close(found.adjoints[:, 0].T, torch.linalg.inv(torch.eye(3) + matrix).T)
    torch.testing.assert_close(found.value[0], torch.linalg.slogdet(torch.eye(3) + matrix)[1])


@pytest.mark.parametrize("estimator", UNBIASED.values(), ids=str)
def test_one_seed_one_value_whatever_the_global_streams_do(estimator):
    g, x = LipschitzMLP(3, (4,)), torch.randn(6, 3)
    values = []
    for noise in (1, 2):
        np.random.seed(noise)  # noqa: NPY002 - the stream that must not matter
        torch.manual_seed(noise)
        with torch.no_grad():
            values.append(GRADIENTS["dual"](g, estimator, x, torch.Generator().manual_seed(9))[1])
    assert torch.equal(*values)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PowerSeries(0),
        lambda: PowerSeries(3, probes=0),
        lambda: RussianRoulette(exact_terms=-1),
        lambda: RussianRoulette(probes=0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(DomainError, match="at least"):
        make()


def test_a_module_that_is_no_contraction_is_refused():
    with pytest.raises(DomainError, match=r"lipschitz_bound=1\.2"):
        ModuleContraction(nn.Linear(2, 2), 1.2)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("gradient", ["dual", "kept"])
def test_bfloat16_products_stay_within_the_probe_noise(kind, gradient):
    """Draw by draw the rounding is below a twentieth of the scatter of the draws, in value and in gradient, and what it
    adds up to over 300 draws is below a fiftieth."""
    torch.manual_seed(4)
    g, x = (LipschitzMLP(6, (32, 32)), torch.randn(1, 6))
    if kind == "conv":
        g, x = LipschitzConvNet(3, 8, (4, 4)), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        for layer in g.layers:
            layer.weight.mul_(4)  # every layer at its bound
    found = {}
    for dtype in (None, torch.bfloat16):
        draws = []
        for seed in range(300):
            generator = torch.Generator().manual_seed(seed)
            value = GRADIENTS[gradient](g, RussianRoulette(series_dtype=dtype), x, generator)[1].sum()
            grads = torch.autograd.grad(value, list(g.parameters()))
            draws.append(torch.cat([value.detach()[None], *(one.flatten() for one in grads)]))
        found[dtype] = torch.stack(draws)
    rounding = found[torch.bfloat16] - found[None]
    for part in (slice(0, 1), slice(1, None)):
        scatter = found[None][:, part].std(dim=0).norm()
        assert 0 < rounding[:, part].square().mean(dim=0).sum().sqrt() < scatter / 20
        assert rounding[:, part].mean(dim=0).norm() < scatter / 50


def test_a_contraction_of_one_dtype_refuses_others():
    g = ModuleContraction(torch.nn.Tanh(), 0.9)
    with pytest.raises(DomainError, match="series_dtype"):
        GRADIENTS["dual"](g, RussianRoulette(series_dtype=torch.bfloat16), torch.randn(2, 3), None)


SCALES, TERMS = [0.004, 0.9, 0.05, 0.1, 0.0], [28, 24, 23, 21, 22]


def series_of(scales: list[float], watch=None):
    """Roulette with 20 exact terms on J = scale · A, row by row: the estimate, and every u that Jᵀ was applied to."""
    torch.manual_seed(0)
    a = torch.randn(6, 6)
    a /= torch.linalg.matrix_norm(a, 2)
    factors, v, seen = torch.tensor(scales), torch.randn(2, len(scales), 6), []

    def linearize(x: torch.Tensor):
        def vjp(u: torch.Tensor) -> torch.Tensor:
            seen.append(u.clone())
            return (u @ a) * x[: u.shape[1]]

        return x.expand(-1, 6), vjp

    coefficients = [1.0] * 20 + [2.0**k for k in range(8)]
    with torch.no_grad():
        terms = torch.tensor(TERMS)
        estimate = roulette(linearize, factors[:, None], v, terms, lambda longest: coefficients[:longest], watch)
    return estimate, seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_series_ends_where_its_terms_vanish_in_rounding(dtype):
    """Against all terms, which `watch` asks for; products are saved, and none is of subnormal numbers."""
    torch.set_default_dtype(dtype)
    whole, every = series_of(SCALES, lambda u, inner: None)
    ended, seen = series_of(SCALES)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ended.value, whole.value, rtol=2 * eps, atol=0)
    torch.testing.assert_close(ended.adjoints, whole.adjoints, rtol=0, atol=2 * eps)
    assert (len(every), every[20].shape[1]) == (28, 5)
    assert seen[20].shape[1] == 2  # the slow row, and a longer one before it
    smallest, slow = (torch.cat([u[u != 0] for u in one]).abs().min() for one in (seen, every))
    assert smallest > torch.finfo(dtype).tiny
    assert dtype == torch.float64 or slow < torch.finfo(dtype).tiny


def test_a_batch_whose_series_have_all_ended_makes_no_more_products():
    _, seen = series_of([0.001] * len(TERMS))
    assert len(seen) == 8


def test_a_truncated_series_ends_so_too_and_under_a_graph_it_does_not():
    """30 terms on J = scale · A: the value and the adjoint of all terms, from fewer products."""
    torch.manual_seed(0)
    a = torch.randn(5, 5)
    a /= torch.linalg.matrix_norm(a, 2)
    rows = []

    def linearize(x: torch.Tensor):
        def vjp(u: torch.Tensor) -> torch.Tensor:
            rows.append(u.shape[1])
            return (u @ a) * x[: u.shape[1]]

        return x, vjp

    x = torch.tensor([0.01, 0.5, 0.02, 0.1])[:, None].expand(-1, 5)

    def estimate():
        return PowerSeries(30).estimate(linearize, x, torch.Generator().manual_seed(3))

    whole, every = estimate(), list(rows)
    rows.clear()
    with torch.no_grad():
        ended = estimate()
    eps = torch.finfo(x.dtype).eps
    torch.testing.assert_close(ended.value, whole.value, rtol=2 * eps, atol=0)
    torch.testing.assert_close(ended.adjoints, whole.adjoints, rtol=0, atol=2 * eps)
    assert every == [4] * 30
    assert rows[:8] == [4] * 8
    assert rows[-1] == 2  # the slow row, and a faster one before it


def test_a_series_of_nan_goes_on():
    ended, seen = series_of([0.001, math.nan, 0.001, 0.0, 0.001])
    assert ended.value.isnan().tolist() == [False, True, False, False, False]
    assert len(seen) == max(TERMS)


def test_the_papers_roulette_draws_one_number_of_terms_for_the_whole_batch():
    """Every row computes the same powers, of g(x) = x/2; over calls, their number follows 2 + Geometric(0.5)."""
    generator = torch.Generator().manual_seed(0)
    lengths = []
    for _ in range(400):
        rows = []

        def linearize(x, rows=rows):
            return x / 2, lambda u: rows.append(u.shape[1]) or u / 2

        PaperRoulette().estimate(linearize, torch.zeros(6, 3), generator)
        assert set(rows) == {6}
        lengths.append(len(rows))
    assert min(lengths) == 3
    # mean 4, variance 2: a false-alarm rate of 1e-5 at 4.4 standard errors
    assert abs(np.mean(lengths) - 4) < 4.4 * (2 / 400) ** 0.5


def test_the_papers_probes_are_gaussian():
    estimate = PaperRoulette().estimate(lambda x: (x / 2, lambda u: u / 2), torch.zeros(50, 3))
    assert len(estimate.probes.unique()) == 150


@pytest.mark.parametrize("wrong", [{"exact_terms": -1}, {"probes": 0}])
def test_numbers_that_the_papers_roulette_refuses(wrong):
    with pytest.raises(DomainError, match="at least 0 exact terms and 1 probe"):
        PaperRoulette(**wrong)
