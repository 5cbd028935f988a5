"""Held-out scores: right value, right error bar, and the Gaussian to beat."""

from __future__ import annotations

import math
import re

import pytest
import scipy.stats
import torch
from torch import Generator

from contraflow import Chain, Exact, Flow, PowerSeries, RussianRoulette, residual_flow
from contraflow.architectures import ARCHITECTURES
from contraflow.errors import ConfigurationError
from contraflow.evaluation import evaluate_likelihood, gaussian_baseline, score
from contraflow.evaluation.likelihood import report
from contraflow.lipschitz import LipschitzLayer
from contraflow.logdet import Geometric
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing

ROULETTE = RussianRoulette(Geometric(0.5), 2)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def identity(dimensions: int = 3) -> Flow:
    return Flow((dimensions,), Chain([]))


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A residual flow in float64 whose blocks are far from zero."""
    torch.manual_seed(1)
    made = residual_flow((3,), blocks=3, hidden=(16,), bound=0.8).double()
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.mul_(3)
                layer.bias.fill_(2)  # where LipSwish is steep
    made.log_prob(torch.randn(50, 3).double())
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def tiny_images() -> Flow:
    torch.manual_seed(1)
    options = {"blocks": [1, 1], "hidden": 4, "dense_blocks": 0}
    return ARCHITECTURES["residual_flow_digits"]((1, 4, 4), preprocessing=ImagePreprocessing(17), **options)


def test_a_standard_normal_gets_minus_its_entropy() -> None:
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    found = evaluate_likelihood(identity(), torch.randn(4000, 3, generator=seeded()))
    assert found.unit == "nats"
    assert found.rows == 4000
    assert abs(found.value + entropy) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(math.sqrt(1.5 / 4000), rel=0.1)  # Var log p = D/2


def test_the_standard_error_covers() -> None:
    # 4-σ intervals would hide a factor; the share within 1 σ over many data sets does not.
    entropy, inside = 1.5 * math.log(2 * math.pi * math.e), 0
    for seed in range(200):
        found = evaluate_likelihood(identity(), torch.randn(200, 3, generator=seeded(seed)))
        inside += abs(found.value + entropy) < found.standard_error
    assert abs(inside / 200 - 0.683) < 4 * math.sqrt(0.683 * 0.317 / 200)


def test_the_error_falls_as_one_over_root_n() -> None:
    x = torch.randn(6400, 3, generator=seeded())
    errors = [evaluate_likelihood(identity(), x[:n]).standard_error for n in (100, 400, 1600, 6400)]
    slope = math.log(errors[-1] / errors[0]) / math.log(64)
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_exact_scores_have_no_error(flow: Flow) -> None:
    x = torch.randn(10, 3, generator=seeded()).double()
    found = score(flow, x, estimator=Exact(), draws=3)
    assert found.standard_error.max() < 1e-12, "three equal draws, up to the rounding of their mean"
    assert torch.allclose(found.log_prob, flow.with_logdet(Exact()).log_prob(x))
    assert torch.isnan(score(flow, x, estimator=Exact()).standard_error).all()


def test_roulette_agrees_with_exact_within_its_error(flow: Flow) -> None:
    x = torch.randn(40, 3, generator=seeded()).double()
    exact = score(flow, x, estimator=Exact()).log_prob
    found = score(flow, x, estimator=ROULETTE, draws=400, generator=seeded(2))
    z = (found.log_prob - exact) / found.standard_error
    assert (found.standard_error > 0).all()
    assert z.abs().max() < 4
    assert 0.6 < z.std() < 1.4, "the errors have the right size"
    biased = score(flow, x, estimator=PowerSeries(1), draws=400, generator=seeded(2))
    assert ((biased.log_prob - exact) / biased.standard_error).abs().max() > 4, "and the test can tell"


def test_the_error_of_a_row_falls_with_its_draws(flow: Flow) -> None:
    x = torch.randn(30, 3, generator=seeded()).double()
    few, many = (
        score(flow, x, estimator=ROULETTE, draws=draws, generator=seeded()).standard_error.square().mean()
        for draws in (20, 320)
    )
    assert math.sqrt(few / many) == pytest.approx(4, rel=0.25)


def test_the_batch_size_does_not_matter(flow: Flow) -> None:
    x, seen = torch.randn(11, 3, generator=seeded()).double(), []
    whole = score(flow, x, estimator=Exact()).log_prob
    parts = score(flow, x, estimator=Exact(), batch_size=4, progress=lambda *at: seen.append(at)).log_prob
    assert torch.allclose(whole, parts, rtol=1e-12)
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_scoring_leaves_the_flow_and_its_estimator_alone(flow: Flow) -> None:
    before = {name: one.clone() for name, one in flow.state_dict().items()}
    score(flow, torch.randn(5, 3).double(), estimator=Exact())
    assert all(torch.equal(one, before[name]) for name, one in flow.state_dict().items())
    values = [flow.log_prob(torch.ones(1, 3).double(), generator=seeded(seed)).item() for seed in range(20)]
    assert len(set(values)) > 1, "still the stochastic estimator of training"


def test_bits_per_dimension_of_images(tiny_images: Flow) -> None:
    x = torch.randint(0, 17, (20, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    tiny_images.log_prob(x)
    found = evaluate_likelihood(tiny_images, x, estimator=Exact(), draws=2, generator=seeded(3))
    values = score(tiny_images, x, estimator=Exact(), draws=2, generator=seeded(3)).log_prob / (-16 * math.log(2))
    assert found.unit == "bits/dim"
    assert found.value == pytest.approx(values.mean().item())
    assert found.standard_error == pytest.approx(values.std().item() / math.sqrt(20))
    assert re.fullmatch(r"bits/dim \d+\.\d{3} ± \d\.\d{3} \(20 images, .*2 dequantisation draws\)", str(found))


def test_what_a_report_says() -> None:
    log_prob = torch.tensor([-1.0, -2.0, -3.0])
    text = str(report(log_prob, (2,), str(ROULETTE), 1))
    assert text.startswith("nats -2.000 ± 0.577 (3 rows, 2 exact terms + Geometric(p=0.5)")
    assert "dequantisation" not in text
    values = report(log_prob, (2,), "exact", 1).as_dict()
    assert (values["rows"], values["draws"], values["unit"]) == (3, 1, "nats")
    assert math.isnan(report(log_prob[:1], (2,), "exact", 1).standard_error)


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"batch_size": 0}])
def test_draws_and_batch_size_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        score(identity(), torch.zeros(2, 3), **wrong)  # type: ignore[arg-type]


def test_the_gaussian_baseline_is_the_gaussian() -> None:
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [0.3, 0.0, 1.0]]).double()
    train, test = ((torch.randn(n, 3, generator=seeded(n)).double() @ mixing + 3).float() for n in (500, 200))
    found = gaussian_baseline(train, test, TablePreprocessing.fit(train))
    wide = train.double().numpy()
    normal = scipy.stats.multivariate_normal(wide.mean(axis=0), torch.cov(train.double().T).numpy())
    values = normal.logpdf(test.double().numpy())
    assert found.value == pytest.approx(values.mean(), abs=1e-4)  # standardising changes nothing but the ridge
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(200), rel=1e-3)
    assert found.unit == "nats"


def test_the_gaussian_baseline_of_images_takes_constant_pixels() -> None:
    images = torch.randint(0, 17, (300, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    images[:, :, 0] = 0
    found = gaussian_baseline(images[:250], images[250:], ImagePreprocessing(17), generator=seeded(1))
    assert found.unit == "bits/dim"
    # 12 of 16 pixels uniform over 17 levels, 4 constant: the logit-Gaussian is near, and not below, the entropy.
    assert 12 / 16 * math.log2(17) - 0.1 < found.value < 12 / 16 * math.log2(17) + 0.8
