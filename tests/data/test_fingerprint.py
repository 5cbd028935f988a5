"""Fingerprints of data: the same for the same rows, another for any change, and rows found again one by one."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from contraflow.data import Dataset, Fingerprint, load_dataset
from contraflow.data import fingerprint as module
from contraflow.data.fingerprint import row_hashes


def table(rows: Tensor, columns: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    return Dataset("t.csv", rows[:80], rows[80:90], rows[90:], columns=columns)


ROWS = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))


def flipped(rows: Tensor, row: int, column: int) -> Tensor:
    """One number less the last bit of its mantissa."""
    changed = rows.clone()
    changed.view(torch.int32)[row, column] ^= 1
    return changed


@pytest.mark.parametrize("row", [0, 85, 99])
def test_one_bit_of_one_number_is_seen(row: int) -> None:
    before, after = Fingerprint.of(table(ROWS)), Fingerprint.of(table(flipped(ROWS, row, 1)))
    split = {0: "train", 85: "validation", 99: "test"}[row]
    assert before.change(after) == f"as many rows, but other values or another order in {split}"
    assert before.change(Fingerprint.of(table(ROWS.clone()))) == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table(torch.cat([ROWS, ROWS])), "200 rows, not 100"),
        (table(ROWS[:95]), "95 rows, not 100"),
        (table(ROWS.flip(0)), "as many rows, but other values or another order in train, validation, test"),
        (table(ROWS.double()), "rows of float64 (3,), not of float32 (3,)"),
        (table(ROWS, ("b", "a", "c")), "its columns in another order: b, a, c"),
        (table(ROWS[:, :2], ("a", "c")), "without column 'b'"),
        (table(ROWS, ("a", "d", "e")), "without columns 'b', 'c' and with the new columns 'd', 'e'"),
        (
            Dataset("t", ROWS[:70], ROWS[70:90], ROWS[90:], columns=("a", "b", "c")),
            "70 + 20 + 10 rows, not 80 + 10 + 10",
        ),
    ],
)
def test_what_has_changed_is_named(data: Dataset, said: str) -> None:
    assert Fingerprint.of(table(ROWS)).change(Fingerprint.of(data)) == said


def test_labels_count() -> None:
    images = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    labels = torch.arange(10)
    made = [Dataset("i", images, images, images, one, labels, labels, levels=2) for one in (labels, labels.flip(0))]
    assert Fingerprint.of(made[0]).change(Fingerprint.of(made[1])).endswith("in train")


def test_the_hashes_tell_rows_apart() -> None:
    """Whatever their width; two flipped signs, swapped columns and swapped neighbours do not cancel each other."""
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    others = [row, -row, row.flip(1), row.roll(2, 1)]
    for one in range(6):
        for other in range(one):
            signs = row.clone()
            signs[0, [one, other]] *= -1
            others.append(signs)
    assert len(set(row_hashes(torch.cat(others)).tolist())) == len(others)
    for width in (1, 3, 8, 13):
        pixels = torch.randint(0, 2, (4000, width), dtype=torch.uint8)
        assert len(set(row_hashes(pixels).tolist())) == len(pixels.unique(dim=0)), width
    assert row_hashes(ROWS[::2]).tolist() == row_hashes(ROWS)[::2].tolist(), "whatever the strides are"


def test_the_rows_of_a_large_set_are_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = row_hashes(ROWS)
    monkeypatch.setattr(module, "_AT_ONCE", 100)
    assert np.array_equal(row_hashes(ROWS), whole)
    monkeypatch.setattr(module, "_ENOUGH", 200)
    assert Fingerprint.of(table(ROWS)).change(Fingerprint.of(table(flipped(ROWS, 0, 0)))) != ""
    assert Fingerprint.of(table(ROWS)).change(Fingerprint.of(table(flipped(ROWS, 1, 0)))) == "", "not among those read"


def test_training_rows_are_found_again() -> None:
    found = Fingerprint.of(table(ROWS))
    assert found.share_among(ROWS[torch.randperm(100)]) == 1
    assert found.share_among(ROWS[40:]) == 0.5, "40 of 80"
    assert found.share_among(ROWS[80:]) == 0
    assert found.share_among(ROWS.double()) == found.share_among(ROWS[:, :2]) == 0, "other rows"
    many = torch.randn(5000, 1)
    large = Fingerprint.of(Dataset("t", many[:4000], many[4000:4500], many[4500:]))
    assert len(large.remembered) <= 256
    assert large.share_among(many[:2000]) == pytest.approx(0.5, abs=0.01)


def test_it_survives_json() -> None:
    for data in (table(ROWS), load_dataset("digits"), load_dataset("moons")):
        found = Fingerprint.of(data)
        assert Fingerprint.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_drawn_data_have_no_checksum() -> None:
    """Nothing was read, and the last digits of a drawn row are the machine's."""
    drawn = Fingerprint.of(load_dataset("moons"))
    assert drawn.checksums == {}
    assert drawn.change(Fingerprint.of(load_dataset("moons", seed=1))) == ""
    assert drawn.change(dataclasses.replace(drawn, rows={**drawn.rows, "test": 3})) != ""
