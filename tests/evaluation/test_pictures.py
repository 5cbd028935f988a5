"""Grids of images, panels of densities, histograms of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contraflow import Chain, Flow
from contraflow.errors import ShapeError
from contraflow.evaluation import density_picture, image_grid, scatter_picture
from contraflow.evaluation.pictures import save_png


def test_the_layout_of_a_grid() -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 3)
    grid = image_grid(images, 5, columns=2)
    assert grid.shape == (3 * 3 + 1, 2 * 4 + 1)
    assert grid.dtype == np.uint8
    for index, bright in enumerate((0, 64, 128, 191, 255)):
        top, left = 1 + 3 * (index // 2), 1 + 4 * (index % 2)
        assert (grid[top : top + 2, left : left + 3] == bright).all()
    assert (grid[0] == 128).all()
    assert (grid[:, 0] == 128).all()
    assert (grid[7:, 5:] == 128).all(), "the place of the absent sixth"


def test_colours_keep_their_channel() -> None:
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[0, 0, 0, 1] = 255
    grid = image_grid(image, 256)
    assert grid.shape == (4, 4, 3)
    assert grid[1, 2].tolist() == [255, 0, 0]
    assert grid[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (2, 2, 4, 4), (2, 4, 4)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="a picture needs images"):
        image_grid(torch.zeros(shape), 2)


def test_a_png_enlarged(tmp_path: Path) -> None:
    save_png(np.array([[0, 255]], np.uint8), tmp_path / "a.png", scale=3)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (6, 3))
        assert np.asarray(image)[0].tolist() == [0, 0, 0, 255, 255, 255]


def test_a_density_is_drawn(tmp_path: Path) -> None:
    density_picture(Flow((2,), Chain([])), torch.randn(50, 2), torch.randn(50, 2), tmp_path / "a.png", points=20)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image).std() > 10


@pytest.mark.parametrize("columns", [1, 3, 6])
def test_histograms_are_drawn(columns: int, tmp_path: Path) -> None:
    data = torch.randn(50, columns)
    data[:, 0] = 1.0  # a constant column
    names = tuple(f"column {index}" for index in range(columns)) if columns == 3 else None
    scatter_picture(data, data, tmp_path / "a.png", names)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    "data", [torch.zeros(1, 2), torch.full((3, 2), 1e10), 1e20 * torch.randn(9, 2), torch.ones(2, 2)]
)
def test_one_row_and_constant_columns_are_drawn(data: torch.Tensor, tmp_path: Path) -> None:
    density_picture(Flow((2,), Chain([])), data, torch.randn(5, 2), tmp_path / "density.png", points=5)
    scatter_picture(data, torch.randn(5, 2), tmp_path / "columns.png")
    for name in ("density.png", "columns.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
