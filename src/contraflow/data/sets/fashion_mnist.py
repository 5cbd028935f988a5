"""Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", 2017 (arXiv:1708.07747)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.known_files import Form
from contraflow.data.sets.mnist import idx_form, read_idx_pair
from contraflow.data.sets.published import labelled

FILES: Form = idx_form(
    "FashionMNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """Fashion-MNIST: as MNIST; with the two test files alone it can be evaluated but not trained on."""
    test = read_idx_pair(*paths[-2:])
    if len(paths) == 4:
        return labelled("fashion_mnist", read_idx_pair(*paths[:2]), test)
    none = test[0][:0]
    return Dataset("fashion_mnist", none, none, test[0], test_labels=test[1], levels=256, test_only=True)


ENTRY = Entry(_load, "clothes, 28 × 28", "image", (FILES, FILES[2:]))
