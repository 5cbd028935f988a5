"""Reconstruction, the series of every block, nearest rows, arcs between latents: each against an independent answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contraflow import Chain, Flow, ModuleContraction, ResidualBlock, residual_flow
from contraflow.bijections import Affine, Bijection
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import latent_arc, nearest, reconstruct, series_decay
from contraflow.preprocessing import ImagePreprocessing


class Off(Bijection):
    """The identity, whose inverse misses by a known amount, in one number of every row."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward_and_logdet(self, x: Tensor, context=None, *, generator=None) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse_and_logdet(self, z: Tensor, context=None, *, generator=None) -> tuple[Tensor, Tensor]:
        moved = z.clone()
        moved.flatten(1)[:, 1] -= self.amount
        return moved, z.new_zeros(len(z))


def linear(*diagonal: float) -> ResidualBlock:
    """x + Ax with diagonal A."""
    layer = nn.Linear(len(diagonal), len(diagonal), bias=False, dtype=torch.float64)
    layer.weight.data = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    return ResidualBlock(ModuleContraction(layer, lipschitz_bound=max(map(abs, diagonal))))


def test_the_error_is_what_the_inverse_misses_by() -> None:
    flow = Flow((3,), Off(0.25), preprocessing=Affine(torch.tensor(1.0), torch.tensor(4.0))).double()
    found = reconstruct(flow, torch.randn(7, 3, dtype=torch.float64), batch_size=2)
    assert found.error.tolist() == pytest.approx([1.0] * 7), "in the units of the data, not of the latent"
    assert found.evaluations.tolist() == [0] * 7
    assert found.block_bound.tolist() == [0] * 7
    assert found.identical is None


@pytest.mark.parametrize(("amount", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_pixels_that_come_back(amount: float, share: float) -> None:
    preprocessing = ImagePreprocessing(17, alpha=None)
    flow = Flow((1, 2, 2), Off(amount / 17), preprocessing=preprocessing).double()
    images = torch.full((5, 1, 2, 2), 8, dtype=torch.uint8)
    found = reconstruct(flow, images, generator=torch.Generator().manual_seed(0))
    assert found.identical == share
    assert found.error.tolist() == pytest.approx([amount] * 5, abs=1e-9), "in levels"


def test_the_bounds_hold() -> None:
    flow = residual_flow((2,), blocks=3, hidden=(16,)).double()
    x = torch.randn(40, 2, dtype=torch.float64)
    found = reconstruct(flow, x, batch_size=16)
    assert len(found.error) == len(found.error_bound) == len(found.block_bound) == len(found.evaluations) == 40
    assert (found.error <= found.error_bound + 1e-13).all()
    assert (found.block_bound <= found.error_bound).all()
    assert 0 < found.block_bound.max() < 1e-6
    assert (found.evaluations >= 3).all(), "one of each g at least"


def test_no_batch_of_nothing() -> None:
    with pytest.raises(ConfigurationError, match="batch_size=0"):
        reconstruct(residual_flow((2,), blocks=1, hidden=(4,)), torch.zeros(1, 2), batch_size=0)


def test_the_series_of_linear_blocks_in_closed_form() -> None:
    """Diagonal A and probes ±1: vᵀAᵏv = Σ aᵢᵏ without noise, ‖(Aᵀ)ᵏv‖² = Σ aᵢ²ᵏ."""
    diagonals = [(0.5, 0.2), (-0.8, 0.1)]
    flow = Flow((2,), Chain([linear(*one) for one in diagonals])).double()
    blocks = series_decay(flow, torch.randn(6, 2, dtype=torch.float64), terms=7)
    assert [one.name for one in blocks] == ["bijection.bijections.0", "bijection.bijections.1"]
    for block, diagonal in zip(blocks, diagonals, strict=True):
        assert block.sizes == pytest.approx([abs(sum(a**k for a in diagonal)) / k for k in range(1, 8)])
        powers = [math.sqrt(sum(a ** (2 * k) for a in diagonal)) for k in (1, 7)]
        assert block.decay == pytest.approx((powers[1] / powers[0]) ** (1 / 6))


def test_a_block_at_rest_has_no_series() -> None:
    (block,) = series_decay(Flow((2,), Chain([linear(0.0, 0.0)])).double(), torch.zeros(2, 2, dtype=torch.float64))
    assert block.decay == 0
    assert set(block.sizes) == {0.0}


def test_the_flow_keeps_its_estimator() -> None:
    flow = residual_flow((2,), blocks=2, hidden=(4,))
    before = flow.estimator_name
    series_decay(flow, torch.randn(3, 2))
    assert flow.estimator_name == before


def test_nearest_rows_as_numpy_finds_them() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, among = torch.randn(9, 2, 3, generator=generator), torch.randn(31, 2, 3, generator=generator)
    differences = rows.flatten(1).numpy()[:, None].astype(float) - among.flatten(1).numpy()[None].astype(float)
    distances = np.sqrt((differences**2).mean(axis=2))
    for at_once in (4, 31, 1000):
        found = nearest(rows, among, at_once=at_once)
        assert found.index.tolist() == distances.argmin(axis=1).tolist()
        assert found.distance.numpy() == pytest.approx(distances.min(axis=1))


def test_a_copy_is_at_no_distance() -> None:
    images = torch.randint(0, 256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = nearest(images[[7, 44]], images, at_once=20)
    assert found.index.tolist() == [7, 44]
    assert found.distance.tolist() == [0, 0]


@pytest.mark.parametrize("among", [torch.zeros(0, 2), torch.zeros(4, 3)])
def test_no_neighbours(among: Tensor) -> None:
    with pytest.raises(ShapeError, match="no neighbours"):
        nearest(torch.zeros(1, 2), among)


def test_an_arc_turns_evenly_at_the_radius() -> None:
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(1, 5, 5, generator=generator).double() for _ in "ab")
    start, end = (5 * one / one.norm() for one in (start, end))
    arc = latent_arc(start, end, 6)
    assert arc.shape == (6, 1, 5, 5)
    assert torch.allclose(arc[0], start)
    assert torch.allclose(arc[-1], end)
    assert torch.allclose(arc.flatten(1).norm(dim=1), torch.full((6,), 5.0, dtype=torch.float64))
    steps = [(arc[i] * arc[i + 1]).sum().div(25).clamp(-1, 1).acos().item() for i in range(5)]
    assert steps == pytest.approx([steps[0]] * 5)


def test_no_arc_is_not_finite() -> None:
    z = torch.tensor([3.0, 4.0])
    for end in (z, 2 * z, -z, 0 * z):
        arc = latent_arc(z, end, 3)
        assert arc.isfinite().all()
        assert torch.allclose(arc[0], z)
        assert torch.allclose(arc[2], end, atol=1e-6)
    with pytest.raises(ShapeError, match="steps=1"):
        latent_arc(z, z, 1)
