"""Figure 4 against the derivatives in closed form."""

import math

import pytest
import torch

from contraflow.lipschitz.activations import ACTIVATIONS, LipSwish
from experiments.paper import EXPERIMENTS, Plan
from experiments.paper.activations import Derivatives


def test_softplus_in_closed_form():
    found = Derivatives.of(torch.nn.functional.softplus)
    sigma = torch.sigmoid(found.z)
    torch.testing.assert_close(found.first, sigma)
    torch.testing.assert_close(found.second, sigma * (1 - sigma))
    # σ >= 0.95 σ(5) from logit(0.95 σ(5)) on; ∫ σ(1 - σ) = σ
    largest = 1 / (1 + math.exp(-5))
    start = math.log(0.95 * largest / (1 - 0.95 * largest))
    assert found.share == pytest.approx((5 - start) / 10, abs=1e-4)
    assert found.curvature == pytest.approx(0.05 * largest / (5 - start), abs=1e-4)


def test_lipswish_in_closed_form():
    beta = LipSwish().double().beta.item()
    found = Derivatives.of(LipSwish().double())
    sigma = torch.sigmoid(beta * found.z)
    slope = sigma * (1 - sigma)
    torch.testing.assert_close(found.first, (sigma + beta * found.z * slope) / 1.1)
    torch.testing.assert_close(found.second, beta * slope * (2 + beta * found.z * (1 - 2 * sigma)) / 1.1)


def test_relu_has_no_curvature_and_elu_has_it_on_the_left_only():
    relu, elu = Derivatives.of(torch.relu), Derivatives.of(ACTIVATIONS["elu"]())
    assert (relu.largest, relu.second.abs().max().item()) == (1.0, 0.0)
    assert elu.second[elu.z > 0].abs().max().item() == 0
    # e^z >= 0.95 on (ln 0.95, 0], where φ'' = φ'
    assert elu.curvature == pytest.approx(0.05 / (5 - math.log(0.95)), abs=1e-4)


def test_the_figure_names_the_effect(tmp_path):
    experiment = EXPERIMENTS["fig4"]
    result = experiment.run(Plan("fig4", experiment.reduced, out=tmp_path))
    curvature = {name: one["curvature"] for name, one in result.values.items()}
    assert curvature["lipswish"] > 1.5 * max(curvature[name] for name in ("relu", "elu", "softplus"))
    ratio = curvature["lipswish"] / curvature["softplus"]
    assert f"{ratio:.1f} times that of softplus" in result.findings[0]
    assert [row[0] for row in result.tables[0].rows] == ["ReLU", "ELU", "softplus", "Swish", "LipSwish"]
    assert (tmp_path / "fig4.png").stat().st_size > 5000
