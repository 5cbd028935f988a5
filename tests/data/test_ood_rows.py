"""Other data brought to a flow's shape, and mutated pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from contraflow.data import draw_rows, fit_images, load_other_rows
from contraflow.errors import ConfigurationError, DataError, ShapeError
from contraflow.preprocessing import ImagePreprocessing, mutate_pixels


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(channels: int, side: int, levels: int = 256) -> torch.Tensor:
    return torch.randint(0, levels, (6, channels, side, side), generator=seeded(), dtype=torch.uint8)


def test_nothing_is_done_where_all_fits() -> None:
    x = images(1, 8)
    found, change = fit_images(x, 256, (1, 8, 8), 256)
    assert torch.equal(found, x)
    assert change == ""


def test_levels_are_stretched_end_to_end() -> None:
    x = torch.tensor([0, 8, 16], dtype=torch.uint8).reshape(1, 1, 1, 3)
    found, change = fit_images(x, 17, (1, 1, 3), 256)
    assert found.flatten().tolist() == [0, 128, 255]
    assert change == "17 levels stretched to 256"
    assert fit_images(found, 256, (1, 1, 3), 17)[0].flatten().tolist() == [0, 8, 16]


def test_channels_are_matched() -> None:
    grey, colour = images(1, 4), images(3, 4)
    wide, change = fit_images(grey, 256, (3, 4, 4), 256)
    assert torch.equal(wide, grey.expand(-1, 3, -1, -1))
    assert change == "grey repeated over three channels"
    flat, change = fit_images(colour, 256, (1, 4, 4), 256)
    red, green, blue = colour.double().unbind(1)
    assert torch.equal(flat[:, 0].double(), (0.299 * red + 0.587 * green + 0.114 * blue).round())
    assert change == "colour made grey"
    with pytest.raises(ShapeError, match="2 channels cannot be brought to 3"):
        fit_images(images(2, 4), 256, (3, 4, 4), 256)


def test_sides_are_resized_and_constants_stay() -> None:
    found, change = fit_images(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), 256, (1, 28, 28), 256)
    assert found.shape == (2, 1, 28, 28)
    assert found.unique().tolist() == [77]
    assert change == "8×8 enlarged to 28×28"
    small, change = fit_images(images(1, 28), 256, (1, 8, 8), 256)
    assert change == "28×28 reduced to 8×8"
    assert small.double().std() < images(1, 28).double().std() / 2, "antialiased: noise averages out"


def test_named_sets_and_drawn_images() -> None:
    digits = load_other_rows("digits", (1, 8, 8), 17, 25, generator=seeded())
    assert digits.rows.shape == (25, 1, 8, 8)
    assert digits.change == ""
    noise = load_other_rows("noise", (3, 8, 8), 17, 400, generator=seeded())
    counts = noise.rows.flatten().bincount()
    expected = noise.rows.numel() / 17
    assert len(counts) == 17
    assert ((counts - expected) ** 2 / expected).sum() < 16 + 5 * math.sqrt(32)
    constant = load_other_rows("constant", (1, 5, 5), 256, 30).rows
    assert constant.flatten(1).unique(dim=1).shape[1] == 1
    assert (constant.min(), constant.max(), constant.unique().numel()) == (0, 255, 30)
    assert not torch.equal(noise.rows[0], noise.rows[1])
    assert load_other_rows("black", (3, 5, 5), 256, 4).rows.unique().tolist() == [0]


def test_the_same_seed_draws_the_same_rows() -> None:
    one, again, other = (load_other_rows("digits", (1, 8, 8), 17, 25, generator=seeded(s)).rows for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    rows = draw_rows(torch.arange(10), 4, seeded())
    assert rows.unique().numel() == 4
    assert draw_rows(torch.arange(3), 10).numel() == 3


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n" + "\n".join(f"{i},{i + 1},{i + 2}" for i in range(40)))
    found = load_other_rows(str(tmp_path / "a.csv"), (2,), None, 3, columns=("z", "x"), generator=seeded())
    assert found.rows.shape == (3, 2)
    assert (found.rows[:, 0] - found.rows[:, 1]).tolist() == [2.0] * 3
    np.save(tmp_path / "b.npy", np.zeros((40, 3)))
    with pytest.raises(ShapeError, match=r"\(3,\), expected \(2,\)"):
        load_other_rows(str(tmp_path / "b.npy"), (2,), None, 3, columns=("z", "x"))
    with pytest.raises(ShapeError, match="expected"):
        load_other_rows("digits", (2,), None, 3)
    with pytest.raises(ConfigurationError, match="unknown data set 'noise'"):
        load_other_rows("noise", (2,), None, 3)
    with pytest.raises(DataError, match="files not found"):
        load_other_rows("mnist", (1, 28, 28), 256, 3, root=tmp_path)


@pytest.mark.parametrize("levels", [17, 256])
def test_mutated_pixels_are_uniform_and_as_many_as_asked(levels: int) -> None:
    """z-test at 1e-5 of the number replaced, χ² of what they are replaced by."""
    x = torch.zeros(400, 1, 10, 10, dtype=torch.uint8)
    found = mutate_pixels(x, 0.3, levels, seeded(3))
    changed = found[found != 0]
    expected = x.numel() * 0.3 * (levels - 1) / levels
    assert abs(len(changed) - expected) < 4.4 * math.sqrt(expected * 0.8)
    counts = changed.long().bincount(minlength=levels)[1:]
    each = len(changed) / (levels - 1)
    assert ((counts - each) ** 2 / each).sum() < levels + 5 * math.sqrt(2 * levels)
    assert found.max() == levels - 1
    assert found.dtype == torch.uint8
    assert int(x.max()) == 0


def test_preprocessing_mutates_in_training_only() -> None:
    x = images(1, 6, 17)
    preprocessing = ImagePreprocessing(17, mutate=0.5)
    assert torch.equal(preprocessing.augment(x, seeded(1)), mutate_pixels(x, 0.5, 17, seeded(1)))
    assert torch.equal(ImagePreprocessing(17).augment(x), x)
    plain, mutating = (
        made.forward(x, generator=seeded(2)) for made in (ImagePreprocessing(17), ImagePreprocessing(17, mutate=0.5))
    )
    assert torch.equal(plain, mutating)
    assert preprocessing.config()["mutate"] == 0.5
    with pytest.raises(ConfigurationError, match=r"mutate=1.5"):
        ImagePreprocessing(17, mutate=1.5)
