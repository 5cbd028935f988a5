"""SVHN, cropped digits: MATLAB files with X ``(32, 32, 3, n)`` and y ``(n, 1)``, where label 10 means the digit 0.

Y. Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.matlab import read_matlab
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published import labelled
from contraflow.errors import DataError


def read_svhn(path: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 ``(n, 3, 32, 32)`` and labels int64 ``(n,)`` in 0…9.

    Raises:
        DataError: not a MATLAB 5 file with such X and y, truncated, or with a label outside 1…10.
    """
    arrays = read_matlab(path)
    if not {"X", "y"} <= arrays.keys():
        raise DataError(f"{path}: expected the variables X and y, got {', '.join(arrays) or 'none'}.")
    images, labels = arrays["X"], arrays["y"].reshape(-1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.shape[3] == 0:
        raise DataError(f"{path}: expected uint8 X of shape (32, 32, 3, n), got {images.dtype} {images.shape}.")
    if len(labels) != images.shape[3] or not bool(np.isin(labels, np.arange(1, 11)).all()):
        raise DataError(f"{path}: expected {images.shape[3]} labels in 1…10, got {len(labels)}. Download it again.")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64) % 10)


FILES: Form = tuple(
    KnownFile(name, ("SVHN", "."), md5, (f"http://ufldl.stanford.edu/housenumbers/{name}",))
    for name, md5 in {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }.items()
)


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """SVHN, cropped: colour 32 × 32, ten digits; 68,257 train, 5,000 validation, 26,032 test."""
    train, test = (read_svhn(path) for path in paths)
    return labelled("svhn", train, test)


ENTRY = Entry(_load, "house numbers, 3 × 32 × 32", "image", (FILES,))
