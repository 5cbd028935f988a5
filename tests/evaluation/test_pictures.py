"""Grids of images, panels of densities, histograms of columns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from contraflow import Chain, Flow
from contraflow.errors import OutputError, ShapeError
from contraflow.evaluation import (
    DetectionReport,
    density_picture,
    image_grid,
    pictures,
    scatter_picture,
    scores_histograms,
)
from contraflow.evaluation.figures import logarithmic, panels, png_figure, save_png
from contraflow.evaluation.pictures import density_on_grid, draw_column


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


def test_a_wide_table_shows_its_first_columns_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """900 columns used to take half an hour, and then more pixels than matplotlib draws."""
    said: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text: said.append(text))
    drawn: list[Tensor] = []
    monkeypatch.setattr(pictures, "draw_column", lambda axes, data, samples: drawn.append(data))
    monkeypatch.setattr(pictures, "MOST_COLUMNS", 5)
    monkeypatch.setattr(Axes, "legend", lambda axes: None)
    data = torch.randn(20, 900)
    scatter_picture(data, data, tmp_path / "a.png")
    assert said == ["Shown are the first 5 of 900 columns."]
    assert torch.equal(torch.stack(drawn, dim=1), data[:, :5])
    scatter_picture(data[:, :5], data[:, :5], tmp_path / "a.png")
    assert len(said) == 1, "all are shown"


def test_a_column_has_few_shapes_and_the_right_heights() -> None:
    """One outline for each histogram, which is what makes a picture cheap; samples that are not finite have no bar."""
    axes = Figure().subplots()
    data, samples = torch.linspace(0, 1, 1001), torch.tensor([0.5, math.nan, math.inf, 0.5])
    draw_column(axes, data, samples, bars=11)
    assert len(axes.patches) == 2
    (filled, line), ends = axes.patches, [0.001, 0.999]
    assert filled.get_xy()[:, 0].min() == pytest.approx(ends[0], abs=1e-6)
    assert line.get_xy()[:, 1].max() == pytest.approx(2 * 10 / 4), "half of four samples in one bin of ten"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scales",
    [(1e9, 1e-6), (1e-30, 1e-30), (1e38, 1e38), (1e-42, 1.0)],
    ids=["very different", "tiny", "nearly infinite", "denormal"],
)
def test_columns_of_any_scale_are_drawn(scales: tuple[float, float], tmp_path: Path) -> None:
    data = torch.rand(50, 2) * torch.tensor(scales)
    density_picture(Flow((2,), Chain([])), data, data, tmp_path / "density.png", points=5)
    scatter_picture(data, torch.full((5, 2), math.nan), tmp_path / "columns.png", ("$a", "$\\frac$"))
    for name in ("density.png", "columns.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"


def test_the_grid_of_a_density_is_as_exact_as_its_data() -> None:
    """Timestamps some seconds apart are many steps of float32 apart; the density of tiny columns is beyond it."""
    data = 1.7e9 + torch.tensor([[0.0, 0.0], [10.0, 10.0]], dtype=torch.float64)
    seen: list[Tensor] = []
    _, extent = density_on_grid(lambda x: seen.append(x) or x.sum(1) * 0, data, 5)
    assert extent == pytest.approx([1.7e9 - 0.8, 1.7e9 + 10.8] * 2, abs=1e-6)
    assert (seen[0][:, 0].unique() - 1.7e9).tolist() == pytest.approx([-0.8, 2.1, 5.0, 7.9, 10.8], abs=1e-6)
    density, _ = density_on_grid(lambda x: torch.full((len(x),), 140.0), data.float(), 5)
    assert density.max() == pytest.approx(math.exp(140)), "more than float32 holds"


def test_a_set_without_a_finite_score_has_a_picture(tmp_path: Path) -> None:
    scores = {name: {"log p(x)": torch.full((4,), value)} for name, value in (("own", math.inf), ("far", 1e9))}
    scores_histograms(DetectionReport("own", scores, {}, {}, {}), tmp_path / "a.png")
    scores["own"]["log p(x)"] = 1e9 + torch.arange(4).double() * 1e-7
    scores_histograms(DetectionReport("own", scores, {}, {}, {}), tmp_path / "b.png")


def test_a_figure_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), png_figure(path, 1, 1):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="cannot be written"), png_figure(tmp_path / "absent" / "a.png", 1, 1):
        pass


def test_a_logarithmic_axis_has_labels_without_formulas() -> None:
    axes = Figure().subplots()
    axes.plot([1.5, 4096], [1e-3, 1e2])
    logarithmic(axes, "x", [1.5, 4096])
    logarithmic(axes, "y")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1.5", "4,096"]
    labels = [axes.yaxis.get_major_formatter()(value) for value in axes.get_yticks()]
    assert "10⁻²" in labels
    assert not any("$" in label for label in labels)
    assert not axes.xaxis.get_minorticklocs().size


def test_panels_beyond_the_count_are_empty() -> None:
    figure = Figure()
    assert len(panels(figure, 6)) == 6
    assert [axes.axison for axes in figure.axes] == [True] * 6 + [False] * 2
