"""Scores of classifiers against counts by hand, and calibration against probabilities that are true or are not."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn

from contraflow import Chain, Flow, hybrid
from contraflow.architectures import BranchedFlow, MixtureFlow
from contraflow.errors import ConfigurationError, DataError, DomainError, ShapeError
from contraflow.evaluation import (
    calibration_picture,
    class_probabilities,
    confusions,
    evaluate_classification,
    latent_normality,
    latents,
    probability_integrals,
    reliability,
    report_classes,
    score,
)
from contraflow.evaluation.calibration_pictures import uniform_range
from contraflow.evaluation.classification import wilson_interval
from contraflow.preprocessing import ImagePreprocessing


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def line(weight: float = 2.0) -> BranchedFlow:
    """p(y=1|x) = σ(weight x)."""
    flow = BranchedFlow((1,), Chain([Chain([])]), [nn.Flatten()], 1, 2)
    with torch.no_grad():
        flow.classifier.weight.copy_(torch.tensor([[0.0], [weight]]))
        flow.classifier.bias.zero_()
    return flow


def test_a_score_by_hand() -> None:
    x = torch.tensor([[1.0], [-1.0], [3.0], [-2.0], [0.5]])
    y = torch.tensor([1, 1, 1, 0, -1])
    found = evaluate_classification(line(), x, y)
    right = [1 / (1 + math.exp(-2 * s)) for s in (1.0, -1.0, 3.0, 2.0)]
    surprise = torch.tensor(right, dtype=torch.float64).log().neg()
    assert (found.accuracy, found.rows) == (0.75, 4)
    assert found.cross_entropy == pytest.approx(surprise.mean().item(), rel=1e-6)
    assert found.cross_entropy_error == pytest.approx(surprise.std().item() / 2, rel=1e-6)
    assert str(found).startswith("accuracy 75.00 % (95 %: 30.06 to 95.44), cross entropy 0.5")
    assert found.as_dict()["rows"] == 4
    single = evaluate_classification(line(), x[:1], y[:1])
    assert single.as_dict()["cross_entropy_error"] is None


def test_wilsons_interval_against_scipy() -> None:
    for successes, trials in ((0, 7), (3, 9), (97, 100), (10, 10)):
        oracle = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((oracle.low, oracle.high), abs=1e-6)


def test_probabilities_are_means_over_dequantisation_noise() -> None:
    flow = hybrid((1, 4, 4), blocks=(1,), hidden=4, dense_blocks=0, branch_features=4, classes=3,
                  preprocessing=ImagePreprocessing(2))  # fmt: skip
    x = torch.randint(0, 2, (5, 1, 4, 4), generator=seeded())
    flow.class_logits(x, generator=seeded())  # sets ActNorm
    one = class_probabilities(flow, x, draws=3, batch_size=2, generator=seeded(1))
    generator, parts = seeded(1), []
    with torch.no_grad():
        for batch in x.split(2):
            draws = [flow.class_logits(batch, generator=generator).double().softmax(1) for _ in range(3)]
            parts.append(sum(draws) / 3)
    torch.testing.assert_close(one, torch.cat(parts))
    assert one.sum(1).sub(1).abs().max() < 1e-12
    assert not torch.equal(one, class_probabilities(flow, x, draws=1, generator=seeded(1)))


def test_scores_of_a_hybrid_flow_have_its_classes() -> None:
    """The same as of passes of their own where there is no noise, for any batch size."""
    x, y = torch.randn(11, 1, generator=seeded()), torch.tensor([0, 1, -1, 1, 0, 1, 1, -1, 0, 0, 1])
    scores = score(line(), x, draws=2, batch_size=4)
    torch.testing.assert_close(scores.class_probabilities, class_probabilities(line(), x))
    found = report_classes(line(), scores, y)
    assert found is not None
    expected = evaluate_classification(line(), x, y, draws=2).as_dict()
    assert found.as_dict() == pytest.approx(expected, rel=1e-6)
    assert (found.rows, found.draws) == (9, 2)
    assert report_classes(line(), scores, None) is None
    plain = Flow((1,), Chain([]))
    assert report_classes(plain, score(plain, x), y) is None
    with pytest.raises(DataError, match="no row has a label"):
        report_classes(line(), scores, torch.full((11,), -1))
    with pytest.raises(ShapeError, match="11 rows"):
        report_classes(line(), scores, y[:5])


def test_confusions_by_hand() -> None:
    guess = torch.tensor([0, 1, 1, 2, 2, 2, 0, 2])
    labels = torch.tensor([0, 0, 0, 2, 1, 1, 1, 1])
    found = confusions(torch.eye(3)[guess], labels)
    assert [(one.label, one.prediction, one.count, one.of) for one in found] == [
        (1, 2, 3, 4),
        (0, 1, 2, 3),
        (1, 0, 1, 4),
    ]
    assert confusions(torch.eye(3)[labels], labels) == []


def test_what_cannot_be_scored() -> None:
    x = torch.zeros(3, 1)
    with pytest.raises(DataError, match="no row has a label"):
        evaluate_classification(line(), x, torch.full((3,), -1))
    with pytest.raises(DomainError, match="labels from 0 to 2"):
        evaluate_classification(line(), x, torch.arange(3))
    with pytest.raises(ConfigurationError, match="draws=0"):
        class_probabilities(line(), x, draws=0)
    with pytest.raises(ShapeError, match="probabilities"):
        reliability(torch.ones(3, 2) / 2, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigurationError, match="bins=0"):
        reliability(torch.ones(3, 2) / 2, torch.zeros(3, dtype=torch.long), bins=0)


def test_calibration_error_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    # bins of 0.25: (0.5, 0.75] holds 0.7 right, 0.55 wrong; (0.75, 1] holds 0.9 right, 0.8 wrong, 1 right
    found = reliability(probabilities, labels, bins=4)
    assert found.count.tolist() == [0, 0, 2, 3]
    assert found.error == pytest.approx(2 / 5 * abs(0.5 - 0.625) + 3 / 5 * abs(2 / 3 - 0.9), rel=1e-6)
    assert found.accuracy[2:].tolist() == pytest.approx([0.5, 2 / 3])
    assert found.confidence[2:].tolist() == pytest.approx([0.625, 0.9])
    assert bool(found.accuracy[:2].isnan().all())


def simulated(n: int, sharpness: float, seed: int) -> tuple[Tensor, Tensor]:
    """Labels drawn from p, and p^sharpness normalised."""
    generator = seeded(seed)
    logits = 1.5 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return (sharpness * logits).softmax(1), labels


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not() -> None:
    true, sharp = (reliability(*simulated(20_000, s, 0)) for s in (1.0, 2.0))
    # Each of 15 bins deviates by sqrt(n_b / 4) at most, so the error of exact probabilities stays below 0.028.
    assert true.error < math.sqrt(15 / (4 * 20_000))
    assert sharp.error > 0.1
    used = sharp.count > 100
    assert bool((sharp.confidence > sharp.accuracy)[used].all())


def test_the_bootstrap_error_is_the_spread_of_the_error() -> None:
    """Of 200 data sets; the ratio of two estimates of a standard deviation, 200 and 300 draws, to 25 %."""
    errors = torch.tensor([reliability(*simulated(500, 2.0, seed), resamples=2).error for seed in range(200)])
    found = torch.tensor([reliability(*simulated(500, 2.0, s), resamples=300).standard_error for s in range(10)])
    assert found.mean().item() == pytest.approx(errors.std().item(), rel=0.25)


def test_latents_of_an_exact_model_pass_at_the_stated_rate() -> None:
    """p-values of 200 exact models: the share below 0.2 is 0.2 within 4.5 standard deviations (Bonferroni: at most)."""
    found = [latent_normality(torch.randn(100, 4, generator=seeded(seed))) for seed in range(200)]
    margin = 4.5 * math.sqrt(0.2 * 0.8 / 200)
    assert abs(sum(one.norm < 0.2 for one in found) / 200 - 0.2) < margin
    assert sum(one.dimensions < 0.2 for one in found) / 200 < 0.2 + margin


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda z: torch.cat([z[:, :2], z[:, 2:] + 0.5], 1), "dimensions"),
        (lambda z: 1.1 * z, "norm"),
        (lambda z: z * torch.rand(len(z), 1, generator=seeded(9)) * 1.7, "norm"),
    ],
)
def test_latents_that_are_not_normal_are_seen(spoil, field) -> None:
    found = latent_normality(spoil(torch.randn(2000, 3, generator=seeded())))
    assert getattr(found, field) < 1e-4
    if field == "dimensions":
        assert found.worst == 2
        assert "(2, with Bonferroni correction)" in str(found)


def test_latents_are_centred_on_their_class() -> None:
    flow = hybrid((2,), classes=2, classifier="base", blocks=(1,), hidden=4)
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    assert isinstance(flow, MixtureFlow)
    z = flow(x).detach()
    torch.testing.assert_close(latents(flow, x, y, batch_size=4), z - flow.base.means[y].detach())
    with pytest.raises(ConfigurationError, match="give labels"):
        latents(flow, x)
    torch.testing.assert_close(latents(line(), torch.ones(2, 1)), torch.ones(2, 1))


def test_probability_integrals() -> None:
    """Uniform where samples and rows are of one distribution; ties count half; columns stay apart."""
    samples, x = (torch.randn(n, 2, generator=seeded(n)) for n in (5000, 1000))
    found = probability_integrals(x, samples)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in found.T.numpy())
    shifted = probability_integrals(x + torch.tensor([0.0, 1.0]), samples)
    assert torch.equal(shifted[:, 0], found[:, 0])
    assert shifted[:, 1].mean() > 0.7
    assert probability_integrals(torch.zeros(1, 1), torch.zeros(4, 1)).item() == 0.5
    with pytest.raises(ShapeError, match="rows"):
        probability_integrals(x, samples[:, :1])
    with pytest.raises(ShapeError, match="n >= 1"):
        latent_normality(x[:0])


@pytest.mark.parametrize("samples", [None, 400])
def test_the_band_holds_nineteen_bars_in_twenty(samples: int | None) -> None:
    """Ranks of 1,000 rows among 400 samples scatter nearly twice as far as uniform values, which no band of those
    would show. 400 histograms of 20 bars, of which those of one are dependent: 3 points of margin."""
    low, high = uniform_range(1000, samples)
    generator, inside = seeded(), 0
    for _ in range(400):
        values = torch.rand(1000, 1, generator=generator)
        if samples is not None:
            values = probability_integrals(values, torch.rand(samples, 1, generator=generator))
        counts = (values * 20).long().clamp(max=19).flatten().bincount(minlength=20)
        inside += int(((counts >= low) & (counts <= high)).sum())
    assert abs(inside / 8000 - 0.95) < 0.03


def test_the_picture(tmp_path) -> None:
    path = tmp_path / "calibration.png"
    calibration_picture(path, reliability(*simulated(200, 1.0, 0)), torch.rand(50, 13), [f"c{i}" for i in range(13)])
    whole = path.stat().st_size
    calibration_picture(path, None, torch.rand(50, 1))
    assert 3000 < path.stat().st_size < whole
