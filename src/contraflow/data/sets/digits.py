"""scikit-learn's copy of the test part of "Optical recognition of handwritten digits" (UCI set 80)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry

_SPLIT = (1437, 180, 180)


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """scikit-learn's 1,797 scans of digits, grey 8 × 8 with 17 levels; one fixed shuffle for every seed."""
    from sklearn.datasets import load_digits as sklearn_digits

    scans = sklearn_digits()
    order = torch.randperm(len(scans.images), generator=Generator().manual_seed(0))
    images = torch.from_numpy(scans.images).to(torch.uint8)[order, None]
    labels = torch.from_numpy(scans.target).to(torch.int64)[order]
    train, validation, test = images.split(_SPLIT)
    train_labels, validation_labels, test_labels = labels.split(_SPLIT)
    return Dataset("digits", train, validation, test, train_labels, validation_labels, test_labels, levels=17)


ENTRY = Entry(_load, "scanned digits, 8 × 8, 17 levels, with scikit-learn", "image")
