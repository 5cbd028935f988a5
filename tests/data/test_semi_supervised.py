"""Labels kept: balanced, of the seed, true; and the moments of images that are standardised."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from contraflow.data import keep_labels, load_dataset
from contraflow.errors import ConfigurationError
from contraflow.preprocessing import ImagePreprocessing, channel_moments

LABELS = torch.arange(4).repeat_interleave(torch.tensor([50, 30, 20, 5]))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("count", "shares"), [(4, [1, 1, 1, 1]), (12, [3, 3, 3, 3]), (20, [5, 5, 5, 5]), (35, [10, 10, 10, 5])]
)
def test_as_many_of_each_class(count: int, shares: list[int]) -> None:
    kept = keep_labels(LABELS, count, seeded(0))
    assert kept[kept >= 0].bincount().tolist() == shares
    assert torch.equal(kept[kept >= 0], LABELS[kept >= 0])
    assert (kept == -1).sum() == len(LABELS) - count


def test_a_remainder_goes_to_different_classes() -> None:
    kept = [keep_labels(LABELS, 5, seeded(seed)) for seed in range(40)]
    shares = [one[one >= 0].bincount() for one in kept]
    assert all(one.min() == 1 and one.sum() == 5 for one in shares)
    assert len({int(one.argmax()) for one in shares}) > 1


def test_the_seed_decides_which() -> None:
    before = LABELS.clone()
    assert torch.equal(keep_labels(LABELS, 12, seeded(1)), keep_labels(LABELS, 12, seeded(1)))
    assert not torch.equal(keep_labels(LABELS, 12, seeded(1)), keep_labels(LABELS, 12, seeded(2)))
    assert torch.equal(LABELS, before)
    assert torch.equal(keep_labels(LABELS, len(LABELS)), LABELS)


def test_every_row_can_be_kept() -> None:
    """40 draws of 12 from classes of at most 50: a row of the largest is left out 0.94^40 = 8 % of the time."""
    kept = torch.stack([keep_labels(LABELS, 12, seeded(seed)) >= 0 for seed in range(200)])
    assert bool(kept[:, LABELS == 3].any(0).all())
    assert kept[:, LABELS == 0].any(0).double().mean() > 0.99


@pytest.mark.parametrize("count", [0, 3, 106])
def test_counts_that_cannot_be(count: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"labels={count}: it must be between 4.*and 105"):
        keep_labels(LABELS, count)


@pytest.mark.parametrize("bits", [None, 3])
def test_standardised_images_have_mean_0_and_variance_1(bits: int | None) -> None:
    images = load_dataset("digits").train[:300, :, 2:6, 2:6].repeat(1, 2, 1, 1)
    images[:, 1] = images[:, 1] // 2 * 15
    mean, std = channel_moments(images, 256, bits)
    preprocessing = ImagePreprocessing(256, bits, None, standardise=(mean, std))
    z = torch.cat([preprocessing(images.double(), generator=seeded(seed)) for seed in range(20)])
    assert z.mean((0, 2, 3)).abs().max() < 0.01
    assert (z.var((0, 2, 3)) - 1).abs().max() < 0.01
