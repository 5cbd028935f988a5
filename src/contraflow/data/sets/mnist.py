"""MNIST: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.idx import read_idx
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published import Labelled, labelled
from contraflow.errors import DataError


def idx_form(folder: str, mirrors: tuple[str, ...], sums: dict[str, str]) -> Form:
    """Images and labels of train and test as gzipped IDX files, under the names that MNIST gave them."""
    return tuple(
        KnownFile(
            name=f"{stem}.gz",
            folders=(f"{folder}/raw", folder),
            md5=md5,
            addresses=tuple(f"{mirror}{stem}.gz" for mirror in mirrors),
            also=(stem,),
        )
        for stem, md5 in sums.items()
    )


FILES: Form = idx_form(
    "MNIST",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)


def read_idx_pair(images_path: Path, labels_path: Path) -> Labelled:
    """Images and labels of one split.

    Raises:
        DataError: their numbers differ, or a file is not what its name says.
    """
    images = read_idx(images_path, dimensions=3)[:, None]
    labels = read_idx(labels_path, dimensions=1).to(torch.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels. Do they belong together?"
        )
    return images, labels


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """MNIST: grey 28 × 28, ten digits; 55,000 train, 5,000 validation, 10,000 test."""
    return labelled("mnist", read_idx_pair(*paths[:2]), read_idx_pair(*paths[2:]))


ENTRY = Entry(_load, "handwritten digits, 28 × 28", "image", (FILES,))
