"""Memory for the images of a large data set, taken once and then filled."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.errors import DataError


def memory_for_images(count: int, side: int, source: str) -> Tensor:
    """Room for colour images, uint8 ``(count, 3, side, side)``: 3 count side² bytes, not yet filled.

    Raises:
        DataError: the machine does not give so much.

    >>> memory_for_images(2, 4, "example").shape
    torch.Size([2, 3, 4, 4])
    """
    try:
        return torch.empty(count, 3, side, side, dtype=torch.uint8)
    except RuntimeError as error:
        raise DataError(
            f"{source}: {count} images of {side} × {side} need {3 * count * side**2 / 1e9:.1f} GB of memory, which "
            "this machine does not have. Use a larger one, or read some of the images from a folder of your own."
        ) from error
