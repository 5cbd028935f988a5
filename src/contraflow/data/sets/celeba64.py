"""CelebA 64 × 64 of 5 bits, the 26,838 faces of which the residual flow's paper shows samples.

``celeba_full_64x64_5bit.npy`` is uint8 ``(26838, 64, 64, 3)`` with values 0 to 31, as published with Flow++ (J. Ho,
X. Chen, A. Srinivas, Y. Duan, P. Abbeel, 2019, arXiv:1902.00275). There are no test images: the code of the paper
trains on all images and evaluates on the first 5,000 of them. Here these 5,000 are held out for the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.arrays import read_npy
from contraflow.data.known_files import Form, KnownFile
from contraflow.errors import DataError

TEST_FACES, VALIDATION_FACES = 5000, 1000
_SIDE, _LEVELS = 64, 32


def read_celeba64(path: Path) -> Tensor:
    """The images of the file in their order, uint8 ``(n, 3, 64, 64)`` with 32 levels.

    Raises:
        DataError: not such an array.
    """
    images = read_npy(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (_SIDE, _SIDE, 3):
        raise DataError(
            f"{path}: expected uint8 images (n, {_SIDE}, {_SIDE}, 3), got {images.dtype} {images.shape}. "
            "Download it again."
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def split_celeba64(images: Tensor) -> Dataset:
    """The first 5,000 as test, the last 1,000 as validation and the others as train images.

    Raises:
        DataError: none is left to train on, or a pixel is not one of 32 levels.
    """
    kept = len(images) - VALIDATION_FACES
    if kept <= TEST_FACES:
        raise DataError(
            f"celeba64: {len(images)} images, expected more than the {TEST_FACES + VALIDATION_FACES} of test and "
            "validation. Download the whole file."
        )
    return Dataset("celeba64", images[TEST_FACES:kept], images[kept:], images[:TEST_FACES], levels=_LEVELS)


FILES: Form = (KnownFile("celeba_full_64x64_5bit.npy", ("celebahq64_5bit", ".")),)
"""The README of github.com/aravindsrinivas/flowpp, flows_celeba, says where it is."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """CelebA 64: colour, 5 bits; 20,838 train, 1,000 validation and 5,000 test."""
    return split_celeba64(read_celeba64(paths[0]))


ENTRY = Entry(_load, "faces, 3 × 64 × 64, 5 bits, as Flow++ published them", "image", (FILES,))
