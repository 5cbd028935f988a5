"""Modes of densities whose mode is known; what the temperature does to log p(x) of a Gaussian."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from contraflow import Bijection, Chain, Exact, Flow
from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import Affine
from contraflow.errors import ConfigurationError
from contraflow.preprocessing import ImagePreprocessing
from experiments.paper.modes import RealDensity, ascend, entropy_picture, reduced_entropy

D = 3


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def gaussian() -> Flow:
    """N(mean, diag(std²)): its mode is its mean, and f⁻¹(0)."""
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, 2.0])
    return Flow((D,), Chain([Affine(mean, std)])).double()


class Cubic(Bijection):
    """z = x + x³ + 3 x²/2 − 1: p(x) has its mode away from f⁻¹(0), since |dz/dx| = 1 + 3x + 3x² grows."""

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x + x**3 + 1.5 * x**2 - 1, (1 + 3 * x + 3 * x**2).log().sum(1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        low, high = torch.full_like(z, -10.0), torch.full_like(z, 10.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = self.forward_and_logdet(middle)[0] > z
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return low, -self.forward_and_logdet(low)[1]


def test_ascent_finds_the_mean_of_a_gaussian(gaussian: Flow) -> None:
    start = torch.randn(20, D, generator=seeded(), dtype=torch.float64)
    before = start.clone()
    found = ascend(gaussian.log_prob, start, steps=200)
    assert (found - torch.tensor([1.0, -2.0, 0.5]).double()).abs().max() < 2e-2
    assert torch.equal(start, before)
    assert not found.requires_grad


def test_ascent_stays_in_its_box(gaussian: Flow) -> None:
    low, high = torch.tensor([-1.0, -1.0, -1.0]).double(), torch.tensor([0.5, 5.0, 5.0]).double()
    found = ascend(gaussian.log_prob, torch.zeros(2, D).double(), steps=200, low=low, high=high)
    assert (found - torch.tensor([0.5, -1.0, 0.5]).double()).abs().max() < 2e-2


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}])
def test_ascent_needs_steps(gaussian: Flow, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="both must be positive"):
        ascend(gaussian.log_prob, torch.zeros(1, D).double(), **wrong)  # type: ignore[arg-type]


def test_samples_of_a_gaussian_go_to_its_mode(gaussian: Flow) -> None:
    """log p at temperature T is log p(mode) − T² χ²_D/2: exact row by row."""
    data = gaussian.sample(50, generator=seeded(1))
    report = reduced_entropy(gaussian, data, (0.0, 0.5, 1.0), steps=300, estimator=Exact(), generator=seeded(2))
    peak = gaussian.log_prob(torch.tensor([[1.0, -2.0, 0.5]]).double()).item()
    found = report.log_prob
    assert torch.allclose(found["samples at T = 0"], torch.full((50,), peak).double())
    falls = [peak - found[f"samples at T = {t}"] for t in ("0.5", "1")]
    assert torch.allclose(4 * falls[0], falls[1])
    assert abs(falls[1].mean().item() - D / 2) < 4 * math.sqrt(D / 2 / 50)
    assert torch.allclose(found["data"], gaussian.log_prob(data))
    for name in ("modes above samples at T = 1", "modes above data"):
        assert (peak - found[name]).abs().max() < 1e-3
    assert list(report.points) == list(found)
    assert torch.allclose(report.points["data"], data)


def test_samples_of_another_flow_do_not() -> None:
    """Where the Jacobian varies, the mode lies above f⁻¹(0): by a grid, and by ascent."""
    flow = Flow((1,), Cubic()).double()
    grid = torch.linspace(-4, 4, 200_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        peak = flow.log_prob(grid).max().item()
    data = flow.sample(40, generator=seeded())
    report = reduced_entropy(flow, data, (0.0, 1.0), steps=400, estimator=Exact(), generator=seeded(1))
    modes = report.log_prob["modes above data"]
    assert modes.max().item() == pytest.approx(peak, abs=1e-4)
    assert peak - report.log_prob["samples at T = 0"].max().item() > 0.05


def test_the_density_of_real_pixels() -> None:
    """With the noise that `log_prob` draws, the density in y agrees with it."""
    torch.manual_seed(3)
    options = {"blocks": [1, 1], "hidden": 4, "dense_blocks": 0}
    made = ARCHITECTURES["residual_flow_digits"]((1, 4, 4), preprocessing=ImagePreprocessing(17), **options)
    flow = made.double().with_logdet(Exact())
    x = torch.randint(0, 17, (6, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    with torch.no_grad():
        expected = flow.log_prob(x.double(), generator=seeded(1))
        y = flow.preprocessing.forward(x.double(), generator=seeded(1))
        assert torch.allclose(RealDensity(flow).log_prob(y), expected, atol=1e-8)
        low, high = RealDensity(flow).box()
        assert torch.allclose(flow.preprocessing.inverse(low[None]), torch.zeros(1, 1, 4, 4).double(), atol=1e-12)
        assert torch.allclose(flow.preprocessing.inverse(high[None]), torch.full((1, 1, 4, 4), 17.0).double())
    told: list[str] = []
    report = reduced_entropy(
        flow, x, (0.5, 1.0), steps=8, estimator=Exact(), draws=1, generator=seeded(2), progress=told.append
    )
    for name in ("data", "samples at T = 1"):
        assert (report.log_prob[f"modes above {name}"] > report.log_prob[name]).double().mean() > 0.8
    assert report.points["modes above data"].dtype == torch.uint8
    assert int(report.points["modes above data"].max()) <= 16
    assert told[0] == "modes above samples at T = 1"
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_an_entropy_report_is_drawn_and_written(gaussian: Flow, tmp_path: Path) -> None:
    data = gaussian.sample(10, generator=seeded())
    report = reduced_entropy(gaussian, data, (0.5, 1.0), steps=2, estimator=Exact(), generator=seeded(1))
    entropy_picture(report, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).std() > 5
    values = report.as_dict()["data"]
    log_prob = gaussian.log_prob(data)
    assert values["mean"] == pytest.approx(log_prob.mean().item())
    assert values["standard_error"] == pytest.approx(log_prob.std().item() / math.sqrt(10))
    assert (values["lowest"], values["highest"]) == (log_prob.min().item(), log_prob.max().item())
    assert report.rows()[0][0] == "data"
    assert report.rows()[0][1].startswith(f"{log_prob.mean():.1f} ± ")
