"""Scores where the right answer is known: Gaussians, images without content, a background that explains all."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from contraflow import Chain, Exact, Flow
from contraflow.architectures import BranchedFlow
from contraflow.bijections import Affine
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import (
    Evidence,
    TypicalityTest,
    detect,
    gather_evidence,
    report_detection,
    score,
    scores_histograms,
)
from contraflow.evaluation.out_of_distribution import (
    class_confidence,
    complexity_corrected,
    image_complexity,
    likelihood_ratio,
    out_of_distribution_scores,
)
from contraflow.preprocessing import ImagePreprocessing

D = 50


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def normal_rows(rows: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, D, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def flow() -> Flow:
    return Flow((D,), Chain([])).double()


def log_prob(flow: Flow, x: Tensor) -> Tensor:
    return score(flow, x, estimator=Exact()).log_prob


def test_likelier_rows_mislead_log_p_and_not_typicality(flow: Flow) -> None:
    """Rows near the mode of a standard normal: likelier than any sample, and atypical."""
    inside, near_mode, held_out = normal_rows(300, 1), normal_rows(300, 2, 0.3), normal_rows(300, 3)
    evidence = {name: gather_evidence(flow, x, estimator=Exact()) for name, x in (("own", inside), ("mode", near_mode))}
    report = report_detection("own", evidence, log_prob(flow, held_out), generator=seeded())
    assert list(report.detections) == ["mode"]
    assert list(report.detections["mode"]) == ["log p(x)", "typicality", "typicality of 10 rows"]
    assert report.detections["mode"]["log p(x)"].high < 0.02, "raw likelihood is wrong about every row"
    assert report.detections["mode"]["typicality"].low > 0.95
    assert report.rejected["mode"]["typicality of 10 rows"] == 1.0
    mean, error = report.log_prob["own"]
    assert abs(mean + D / 2 * math.log(2 * math.pi * math.e)) < 4 * error


@pytest.mark.parametrize("batch", [1, 20])
def test_the_typicality_test_keeps_its_level(flow: Flow, batch: int) -> None:
    """False alarms at 10 %: 2,000 fresh batches a fit, over 20 fits since the threshold has noise of its own."""
    share = []
    for seed in range(20):
        held_out = log_prob(flow, normal_rows(1000, 100 + seed))
        test = TypicalityTest.fit(held_out, batch, level=0.1, generator=seeded(seed))
        share.append(test.rejects(log_prob(flow, normal_rows(100 * batch, 200 + seed))).double().mean().item())
    spread = np.std(share, ddof=1) / math.sqrt(20)
    assert abs(np.mean(share) - 0.1) < 4 * spread + 0.01
    assert spread < 0.02


def test_the_statistic_of_batches() -> None:
    test = TypicalityTest(typical=1.0, batch=2, threshold=0.75)
    values = torch.tensor([0.0, 4.0, 1.0, 1.0, 0.0, 0.5, 9.0])
    assert test.statistic(values).tolist() == [1.0, 0.0, 0.75]
    assert test.rejects(values).tolist() == [True, False, False]
    with pytest.raises(ShapeError, match="1 rows are too few for a batch of 2"):
        test.statistic(values[:1])
    with pytest.raises(ConfigurationError, match="level=1"):
        TypicalityTest.fit(values, level=1.0)


def test_the_ratio_cancels_what_both_flows_know() -> None:
    """x = (background, content): one flow knows both, the other the background; the ratio is of the content alone."""
    background = torch.randn(400, 100, generator=seeded(1)).double()
    content, other = (torch.randn(400, 5, generator=seeded(2 + i)).double() + 2 * i for i in (0, 1))
    narrow, wide = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 3.0)
    nuisance = narrow.log_prob(background).sum(1)

    def ratio(content: Tensor) -> Tensor:
        return likelihood_ratio(nuisance + narrow.log_prob(content).sum(1), nuisance + wide.log_prob(content).sum(1))

    assert torch.allclose(ratio(other), (wide.log_prob(other) - narrow.log_prob(other)).sum(1))
    by_ratio = detect(ratio(content), ratio(other))
    by_likelihood = detect(*(-nuisance - narrow.log_prob(one).sum(1) for one in (content, other)))
    assert by_ratio.low > by_likelihood.high, "the background's noise is gone"


def test_complexity_is_the_length_of_the_png() -> None:
    images = torch.randint(0, 256, (3, 3, 9, 7), generator=seeded(), dtype=torch.uint8)
    images[0] = 7
    for image, bits in zip(images, image_complexity(images).tolist(), strict=True):
        stream = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "PNG", optimize=True)
        assert bits == 8 * len(stream.getvalue())
    assert image_complexity(images[:0]).shape == (0,)
    with pytest.raises(ShapeError, match="1 or 3"):
        image_complexity(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


def test_the_corrected_score_is_in_bits() -> None:
    assert complexity_corrected(torch.tensor([-8 * math.log(2)]), torch.tensor([5.0])).item() == pytest.approx(3.0)


def test_class_confidence() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])
    assert class_confidence(probabilities).tolist() == pytest.approx([math.log(2), -math.log(0.9), 0.0], abs=1e-7)


def test_evidence_is_what_the_flow_can_give(flow: Flow) -> None:
    x = normal_rows(30, 5)
    plain = gather_evidence(flow, x, estimator=Exact())
    assert plain.complexity is None
    assert plain.class_probabilities is None
    assert plain.background is None
    assert list(out_of_distribution_scores(plain)) == ["log p(x)"]
    classifier = BranchedFlow((D,), Chain([Chain([])]), [nn.Identity()], D, 3).double()
    wider = Flow((D,), Chain([Affine(torch.zeros(D), torch.full((D,), 2.0))])).double()
    full = gather_evidence(classifier, x, background=wider, estimator=Exact(), batch_size=7)
    torch.testing.assert_close(full.class_probabilities, classifier.class_logits(x).softmax(1).detach())
    assert torch.allclose(full.background, log_prob(wider, x))
    scores = out_of_distribution_scores(full)
    assert list(scores) == ["log p(x)", "likelihood ratio", "class confidence"]
    assert torch.allclose(scores["log p(x)"], -plain.log_prob)
    assert torch.allclose(scores["likelihood ratio"], log_prob(wider, x) - plain.log_prob)


def test_complexity_of_reduced_images() -> None:
    """A flow of 1-bit images compresses 1-bit images."""
    flow = Flow((1, 8, 8), Chain([]), preprocessing=ImagePreprocessing(256, bits=1))
    x = torch.randint(0, 128, (4, 1, 8, 8), generator=seeded(), dtype=torch.uint8)  # all black in one bit
    found = gather_evidence(flow, x, estimator=Exact(), generator=seeded(1))
    black = image_complexity(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(found.complexity, black)
    assert (image_complexity(x) > black).all()


def test_histograms_are_drawn(flow: Flow, tmp_path: Path) -> None:
    evidence = {name: Evidence(-torch.rand(40, generator=seeded(i)).double() - 100 * i) for i, name in enumerate("ab")}
    for one in evidence.values():
        one.log_prob[3] = -math.inf
    report = report_detection("a", evidence, evidence["a"].log_prob[4:], batches=(1,), generator=seeded())
    scores_histograms(report, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).std() > 10
    values = report.as_dict()
    assert values["detections"]["b"]["log p(x)"]["auroc"] == pytest.approx(1 - 39.5 / 1600), "one own row is at -inf"
    assert values["sets"]["b"] == {"log_prob": None, "standard_error": None}
    assert str(report).splitlines()[2].startswith("| b | log p(x) | 0.975 [0.")
