"""Loaders of the data sets that have a name: from the files found, or from a formula, to a `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from contraflow.data.celeba_hq import read_celeba_hq
from contraflow.data.cifar import read_cifar10
from contraflow.data.dataset import Dataset
from contraflow.data.idx import read_idx
from contraflow.data.power import load_power
from contraflow.data.small_imagenet import read_small_imagenet
from contraflow.data.svhn import read_svhn
from contraflow.data.toy_densities import TOY_DENSITIES
from contraflow.errors import DataError

VALIDATION_IMAGES = 5000
"""The last train images of the published image sets are kept for validation."""

VALIDATION_FACES = 1000
"""As many of CelebA-HQ's 27,000."""

DIGITS_SPLIT = (1437, 180, 180)
TOY_ROWS = (50_000, 10_000, 10_000)

Labelled = tuple[Tensor, Tensor]
Loader = Callable[[Sequence[Path], int], Dataset]
"""From the files of one form, and a seed, to the data; only drawn sets depend on the seed."""


def load_mnist(paths: Sequence[Path], seed: int) -> Dataset:
    """MNIST: grey 28 × 28, ten digits; 55,000 train, 5,000 validation, 10,000 test."""
    return _published("mnist", _read_idx_pair(*paths[:2]), _read_idx_pair(*paths[2:]))


def load_fashion_mnist(paths: Sequence[Path], seed: int) -> Dataset:
    """Fashion-MNIST: as MNIST; with the two test files alone it can be evaluated but not trained on."""
    test = _read_idx_pair(*paths[-2:])
    if len(paths) == 4:
        return _published("fashion_mnist", _read_idx_pair(*paths[:2]), test)
    none = test[0][:0]
    return Dataset("fashion_mnist", none, none, test[0], test_labels=test[1], levels=256, test_only=True)


def load_cifar10(paths: Sequence[Path], seed: int) -> Dataset:
    """CIFAR-10: colour 32 × 32, ten classes; 45,000 train, 5,000 validation, 10,000 test."""
    return _published("cifar10", *read_cifar10(paths))


def load_svhn(paths: Sequence[Path], seed: int) -> Dataset:
    """SVHN, cropped: colour 32 × 32, ten digits; 68,257 train, 5,000 validation, 26,032 test."""
    train, test = (read_svhn(path) for path in paths)
    return _published("svhn", train, test)


def imagenet_loader(name: str, side: int) -> Loader:
    """Loader of the small ImageNet: colour, 1,276,149 train, 5,000 validation and, its valid images, 49,999 test."""

    def load(paths: Sequence[Path], seed: int) -> Dataset:
        train, test = (read_small_imagenet(path, side) for path in paths)
        return _unlabelled(name, train, test, VALIDATION_IMAGES)

    return load


def load_celebahq256(paths: Sequence[Path], seed: int) -> Dataset:
    """CelebA-HQ: colour 256 × 256; 26,000 train, 1,000 validation and, its validation images, 3,000 test."""
    train, test = (read_celeba_hq(paths[0], split) for split in ("train", "validation"))
    return _unlabelled("celebahq256", train, test, VALIDATION_FACES)


def load_power_set(paths: Sequence[Path], seed: int) -> Dataset:
    """POWER: six columns, standardised; 1,659,917 train, 184,435 validation, 204,928 test."""
    return load_power(paths[0])


def load_digits(paths: Sequence[Path], seed: int) -> Dataset:
    """scikit-learn's 1,797 scans of digits, grey 8 × 8 with 17 levels; one fixed shuffle for every seed."""
    from sklearn.datasets import load_digits as sklearn_digits

    scans = sklearn_digits()
    order = torch.randperm(len(scans.images), generator=Generator().manual_seed(0))
    images = torch.from_numpy(scans.images).to(torch.uint8)[order, None]
    labels = torch.from_numpy(scans.target).to(torch.int64)[order]
    train, validation, test = images.split(DIGITS_SPLIT)
    train_labels, validation_labels, test_labels = labels.split(DIGITS_SPLIT)
    return Dataset("digits", train, validation, test, train_labels, validation_labels, test_labels, levels=17)


def toy_loader(name: str) -> Loader:
    """Loader of the two-dimensional set `name`: fresh draws for every seed, the density attached."""

    def load(paths: Sequence[Path], seed: int) -> Dataset:
        density = TOY_DENSITIES[name]
        generator = Generator().manual_seed(seed)
        train, validation, test = (density.sample(rows, generator) for rows in TOY_ROWS)
        return Dataset(name, train, validation, test, columns=("x1", "x2"), density=density)

    return load


def _read_idx_pair(images_path: Path, labels_path: Path) -> Labelled:
    images = read_idx(images_path, dimensions=3)[:, None]
    labels = read_idx(labels_path, dimensions=1).to(torch.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels. Do they belong together?"
        )
    return images, labels


def _published(name: str, train: Labelled, test: Labelled) -> Dataset:
    """The published train and test sets, the last of train kept for validation."""
    (images, labels), (test_images, test_labels) = train, test
    kept = _left_to_train(name, images, VALIDATION_IMAGES)
    return Dataset(
        name,
        images[:kept],
        images[kept:],
        test_images,
        train_labels=labels[:kept],
        validation_labels=labels[kept:],
        test_labels=test_labels,
        levels=256,
    )


def _unlabelled(name: str, train: Tensor, test: Tensor, validation: int) -> Dataset:
    """As `_published`, of images without labels; train and validation share the memory of what was read."""
    kept = _left_to_train(name, train, validation)
    return Dataset(name, train[:kept], train[kept:], test, levels=256)


def _left_to_train(name: str, images: Tensor, validation: int) -> int:
    if len(images) <= validation:
        raise DataError(
            f"{name}: {len(images)} train images, expected more than {validation}, which are kept for validation. "
            f"See which files were read, `contraflow data check {name}`, and get the whole set."
        )
    return len(images) - validation
