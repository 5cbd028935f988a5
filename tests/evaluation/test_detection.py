"""AUROC and its companions against scikit-learn; the interval's coverage by simulation."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Generator

from contraflow.errors import DomainError
from contraflow.evaluation import detect


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("ties", [False, True])
def test_against_scikit_learn(ties: bool) -> None:
    inside, outside = torch.randn(83, generator=seeded()), torch.randn(57, generator=seeded(1)) + 0.7
    if ties:
        inside, outside = (2 * inside).round(), (2 * outside).round()
    labels = [0] * 83 + [1] * 57
    scores = torch.cat([inside, outside]).numpy()
    found = detect(inside, outside)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    # FPR95 counts inside as positive, found where the score is low.
    false, true, _ = roc_curve([1 - one for one in labels], -scores, drop_intermediate=False)
    assert found.false_positive_rate == pytest.approx(false[true >= 0.95].min(), abs=1e-12)
    assert (found.inside, found.outside) == (83, 57)


def test_the_standard_error_by_hand() -> None:
    inside, outside = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    # ψ: outside 1 beats 0, ties with 1, loses to 2; outside 3 beats all.
    above, below = torch.tensor([1.0, 0.75, 0.5]), torch.tensor([0.5, 1.0])
    found = detect(inside, outside)
    assert found.auroc == pytest.approx(0.75)
    assert found.standard_error == pytest.approx(math.sqrt(above.var() / 3 + below.var() / 2))


@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (1.0, 1.0), (0.5, 4.0), (2.5, 1.0), (-1.5, 2.0)])
def test_the_interval_covers(shift: float, width: float) -> None:
    """Two normals: AUROC = Φ(shift / √(1 + width²)). 95 % intervals of 600 draws, false alarm 1e-4 a case."""
    truth = 0.5 * (1 + math.erf(shift / math.sqrt(2 * (1 + width**2))))
    covered, runs = 0, 600
    generator = seeded(7)
    for _ in range(runs):
        outside = shift + width * torch.randn(80, generator=generator)
        found = detect(torch.randn(120, generator=generator), outside)
        covered += found.low <= truth <= found.high
    # The normal approximation itself may miss by a point.
    assert abs(covered / runs - 0.95) < 0.01 + 3.9 * math.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("shift", [3.5, 4.5])
def test_the_interval_covers_where_sets_hardly_overlap(shift: float) -> None:
    """AUROC 0.993 and 0.9993, about which 40 rows know little: at least 95 %, false alarm 1e-4."""
    truth = 0.5 * (1 + math.erf(shift / 2))
    generator, runs = seeded(8), 600
    covered = 0
    for _ in range(runs):
        found = detect(torch.randn(40, generator=generator), shift + torch.randn(40, generator=generator))
        covered += found.low <= truth <= found.high
    assert covered / runs > 0.95 - 3.7 * math.sqrt(0.95 * 0.05 / runs)


def test_perfect_separation_is_no_certainty() -> None:
    found = detect(torch.arange(50.0), torch.arange(100.0, 140.0))
    assert (found.auroc, found.high, found.false_positive_rate) == (1.0, 1.0, 0.0)
    assert found.low == pytest.approx(0.025 ** (1 / 40))
    swapped = detect(torch.arange(100.0, 140.0), torch.arange(50.0))
    assert (swapped.auroc, swapped.low, swapped.high) == (0.0, 0.0, pytest.approx(1 - found.low))
    assert swapped.false_positive_rate == 1.0
    touching = detect(torch.arange(50.0), torch.cat([torch.arange(100.0, 139.0), torch.tensor([48.5])]))
    assert touching.auroc == pytest.approx(1 - 1 / 2000)
    assert touching.low == found.low, "one pair the wrong way round makes nobody surer"


def test_infinite_scores_take_part_and_nan_does_not() -> None:
    found = detect(torch.tensor([0.0, 1.0]), torch.tensor([math.inf, 0.5]))
    assert found.auroc == pytest.approx(0.75)
    with pytest.raises(DomainError, match="outside: the score of row 1 is NaN"):
        detect(torch.zeros(2), torch.tensor([0.0, math.nan]))
    with pytest.raises(DomainError, match="at least two"):
        detect(torch.zeros(1), torch.zeros(5))


def test_the_callers_scores_stay_as_they_are() -> None:
    inside, outside = torch.randn(10, generator=seeded()), torch.randn(10, generator=seeded(1))
    before = inside.clone(), outside.clone()
    detect(inside, outside)
    assert torch.equal(inside, before[0])
    assert torch.equal(outside, before[1])
