"""Augmentation of training images by random flips, crops and replaced pixels."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from contraflow.errors import ShapeError


def flip_and_crop(images: Tensor, *, flip: bool, crop_padding: int, generator: Generator | None = None) -> Tensor:
    """Mirror half of the images left to right, and take a random crop of each image after padding it by reflection.

    Both only move pixels, so levels stay integers and likelihoods stay comparable.

    Args:
        images: ``(n, C, H, W)`` of any dtype; not changed.
        flip: whether to mirror.
        crop_padding: pixels of padding on every side, below H and W; 0 for no crop.

    Raises:
        ShapeError: the images are not four-dimensional, or the padding is too large to reflect.
    """
    if images.dim() != 4:
        raise ShapeError(f"expected images (n, C, H, W), got shape {tuple(images.shape)}.")
    count, channels, height, width = images.shape
    if crop_padding >= min(height, width):
        raise ShapeError(f"crop_padding={crop_padding} must be below the height and width, {height} × {width}.")
    rows = _window(count, height, crop_padding, generator)
    columns = _window(count, width, crop_padding, generator)
    if flip:
        mirrored = _integers(2, count, generator).bool()
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def mutate_pixels(images: Tensor, rate: float, levels: int, generator: Generator | None = None) -> Tensor:
    """Replace each pixel value, independently with a given probability, by a uniformly drawn level.

    A background flow is trained on such images: they keep the statistics of single pixels but lose the structure of the
    images. J. Ren et al., "Likelihood ratios for out-of-distribution detection", 2019 (arXiv:1906.02845).

    Args:
        images: integer levels of any shape; not changed.
        rate: probability µ of a replacement; the new level may be the old one.
        levels: number of levels.

    >>> images = torch.zeros(1000, 1, 4, 4, dtype=torch.uint8)
    >>> changed = mutate_pixels(images, 0.2, 256, torch.Generator().manual_seed(0)) != 0
    >>> abs(changed.double().mean().item() - 0.2 * 255 / 256) < 0.015
    True
    """
    device = "cpu" if generator is None else generator.device
    replaced = torch.rand(images.shape, generator=generator, device=device) < rate
    drawn = torch.randint(levels, images.shape, generator=generator, device=device)
    return torch.where(replaced.to(images.device), drawn.to(images), images)


def _integers(below: int, count: int, generator: Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.randint(0, below, (count,), generator=generator, device=device)


def _window(count: int, length: int, padding: int, generator: Generator | None) -> Tensor:
    """Source index of every output pixel along one side, ``(count, length)``."""
    offset = _integers(2 * padding + 1, count, generator) - padding
    place = torch.arange(length, device=offset.device) + offset[:, None]
    return (length - 1) - ((length - 1) - place.abs()).abs()
