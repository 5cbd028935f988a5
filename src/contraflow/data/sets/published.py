"""Image sets with published train and test images: the last of train are kept for validation."""

from __future__ import annotations

from torch import Tensor

from contraflow.data.dataset import Dataset
from contraflow.errors import DataError

VALIDATION_IMAGES = 5000
"""As many of the train images are kept for validation."""

Labelled = tuple[Tensor, Tensor]
"""Images uint8 ``(n, C, H, W)`` and labels int64 ``(n,)``."""


def labelled(name: str, train: Labelled, test: Labelled) -> Dataset:
    """Train less its last 5,000 images, those as validation, and test.

    Raises:
        DataError: no more train images than are kept for validation.
    """
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


def unlabelled(name: str, train: Tensor, test: Tensor, validation: int) -> Dataset:
    """As `labelled`, of images without labels; train and validation share the memory of what was read."""
    kept = _left_to_train(name, train, validation)
    return Dataset(name, train[:kept], train[kept:], test, levels=256)


def _left_to_train(name: str, images: Tensor, validation: int) -> int:
    if len(images) <= validation:
        raise DataError(
            f"{name}: {len(images)} train images, expected more than {validation}, which are kept for validation. "
            f"See which files were read, `contraflow data check {name}`, and get the whole set."
        )
    return len(images) - validation
