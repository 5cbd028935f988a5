"""Named architectures: all are built on the meta device, and have the sizes of their papers."""

from __future__ import annotations

import pytest
import torch

from contraflow import ARCHITECTURES, residual_flow, residual_flow_images
from contraflow.bijections import ActNorm, ContinuousFlow, MultiScale, ResidualBlock
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.lipschitz import LipschitzConvNet, LipschitzMLP
from contraflow.numerics import FixedStepSolver, OdeSolver

PARAMETERS = {"residual_flow_cifar10": 25_174_129}


def count(flow: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in flow.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_built_at_its_own_size(name):
    if (extra := ARCHITECTURES[name].extra) is not None:
        pytest.importorskip(extra, reason=f"the extra {extra} is not installed")
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()
    assert flow.event_shape == ARCHITECTURES[name].event_shape
    assert count(flow) == PARAMETERS.get(name, count(flow))
    assert count(flow) > 100


def test_the_cifar10_model_has_the_25_million_parameters_of_the_paper():
    with torch.device("meta"):
        assert count(ARCHITECTURES["residual_flow_cifar10"]()) == 25_174_129


@pytest.mark.parametrize(
    ("name", "conv", "dense", "factored"),
    [
        ("residual_flow_mnist", 48, 4, False),
        ("residual_flow_cifar10", 48, 4, False),
        ("residual_flow_cifar10_small", 48, 4, False),
        ("residual_flow_svhn", 48, 0, False),
        ("residual_flow_imagenet32", 96, 0, False),
        ("residual_flow_imagenet64", 96, 0, True),
        ("residual_flow_celeba64", 64, 0, True),
        ("residual_flow_celebahq256", 96, 0, True),
    ],
)
def test_blocks_of_the_papers_appendix_e(name, conv, dense, factored):
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()
    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    convolutional = [block.g for block in blocks if isinstance(block.g, LipschitzConvNet)]
    assert len(convolutional) == conv
    assert len(blocks) - conv == dense
    assert [layer.weight.shape[0] for layer in convolutional[0].layers][:2] == [512, 512]
    assert [layer.weight.shape[-1] for layer in convolutional[0].layers] == [3, 1, 3]
    assert [block.g.preactivation for block in blocks] == [False] + [True] * (len(blocks) - 1)
    # ActNorm before the first block and after every one.
    assert sum(isinstance(module, ActNorm) for module in flow.modules()) == len(blocks) + 1
    assert any(isinstance(module, MultiScale) for module in flow.modules()) == factored
    assert {layer.bound for layer in convolutional[0].layers} == {0.98}


@pytest.mark.parametrize("name", ["hybrid_mnist", "hybrid_svhn", "hybrid_cifar10"])
def test_hybrid_models_have_the_papers_blocks_without_the_dense_ones(name):
    """Appendix E: its density models' 3 levels of 16, and a branch of 256 features after each."""
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()
    nets = [module.g for module in flow.modules() if isinstance(module, ResidualBlock)]
    assert len(nets) == 48
    assert all(isinstance(net, LipschitzConvNet) for net in nets)
    assert {net.layers[0].weight.shape[0] for net in nets} == {512}
    assert [branch[0].out_channels for branch in flow.branches] == [256] * 3


def test_the_2d_flow_of_the_paper():
    flow = ARCHITECTURES["residual_flow_2d"]()
    nets = [module for module in flow.modules() if isinstance(module, LipschitzMLP)]
    assert len(nets) == 100
    assert [layer.weight.shape[0] for layer in nets[0].layers] == [128, 128, 128, 128, 2]


@pytest.mark.parametrize(
    ("name", "activation", "layers", "multiplier", "steps"),
    [
        ("ffjord_power", "tanh", 3, 10, 5),
        ("ffjord_gas", "tanh", 3, 20, 5),
        ("ffjord_hepmass", "softplus", 2, 10, 10),
        ("ffjord_miniboone", "softplus", 2, 20, 1),
        ("ffjord_bsds300", "softplus", 3, 20, 2),
    ],
)
def test_tables_of_the_ffjord_paper(name, activation, layers, multiplier, steps):
    """Grathwohl et al. 2019 (arXiv:1810.01367), Table 4."""
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()
    (features,) = flow.event_shape
    flows = [module for module in flow.modules() if isinstance(module, ContinuousFlow)]
    assert len(flows) == steps
    for continuous in flows:
        widths = [layer.layer.out_features for layer in continuous.field.layers]
        assert widths == [multiplier * features] * layers + [features]
        assert continuous.field.activation == activation
        assert continuous.estimator_name == "divergence by 1 Gaussian probe, dopri5 to 1e-06"


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({}, OdeSolver()),
        ({"training_solver": "midpoint", "training_steps": 7}, FixedStepSolver("midpoint", 7)),
        ({"training_solver": "dopri5", "training_tolerance": 1e-3}, OdeSolver("dopri5", 1e-3)),
    ],
)
def test_training_solvers_of_ffjord(options, solver):
    flow = ARCHITECTURES["ffjord"]((3,), hidden=(4,), start_at_identity=True, **options)
    (continuous,) = [module for module in flow.modules() if isinstance(module, ContinuousFlow)]
    assert (continuous.training_solver, continuous.solver) == (solver, OdeSolver())
    x = torch.randn(2, 3)
    torch.testing.assert_close(flow.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1))
    with pytest.raises(ConfigurationError, match="unknown fixed-step ODE solver 'heun'"):
        ARCHITECTURES["ffjord"]((3,), training_solver="heun")


@pytest.mark.parametrize(
    ("name", "channels"), [("ffjord_mnist", (1, 4, 2, 8, 4)), ("ffjord_cifar10", (3, 12, 6, 24, 12, 48, 24))]
)
def test_images_of_the_ffjord_paper(name, channels):
    """Two flows at each number of channels, each of convolutions to 64, 64, 64 and back, with time as one more channel.

    Grathwohl et al. 2019 (arXiv:1810.01367), Appendix B.1.
    """
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()

    def convolution(inputs: int, outputs: int) -> int:
        return 9 * (1 + inputs) * outputs + outputs

    each = [convolution(c, 64) + 2 * convolution(64, 64) + convolution(64, c) for c in channels]
    assert count(flow) == 2 * sum(each)


@pytest.mark.parametrize(
    ("name", "heights"),
    [
        ("residual_flow_cifar10", {32: 16, 16: 16, 8: 16}),
        ("residual_flow_cifar10_small", {16: 16, 8: 16, 4: 16}),
        ("residual_flow_imagenet64", {32: 32, 16: 32, 8: 32}),
        ("residual_flow_celeba64", {32: 16, 16: 16, 8: 16, 4: 16}),
        ("residual_flow_celebahq256", {128: 16, 64: 16, 32: 16, 16: 16, 8: 16, 4: 16}),
        ("iresnet_cifar10", {16: 16, 8: 16, 4: 16}),
    ],
)
def test_heights_at_which_the_papers_blocks_work(name, heights):
    with torch.device("meta"):
        flow = ARCHITECTURES[name]()
    found = [module.layers[0].size[0] for module in flow.modules() if isinstance(module, LipschitzConvNet)]
    assert {height: found.count(height) for height in found} == heights


def test_blocks_of_a_dense_iresnet_begin_with_an_activation():
    flow = ARCHITECTURES["iresnet"]((3,), blocks=2, hidden=(8,))
    blocks = [module.g for module in flow.modules() if isinstance(module, ResidualBlock)]
    assert [(g.preactivation, len(g.activations)) for g in blocks] == [(True, 2)] * 2


def test_the_full_size_iresnet():
    """Behrmann et al. 2019: c = 0.9, ELU, 5 terms, 16-16-16 blocks of 512."""
    with torch.device("meta"):
        flow = ARCHITECTURES["iresnet_cifar10"]()
    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 48
    assert {layer.bound for block in blocks for layer in block.g.layers} == {0.9}
    assert {block.g.layers[0].weight.shape[0] for block in blocks} == {512}
    assert {type(block.g.activations[-1]).__name__ for block in blocks} == {"ELU"}
    assert flow.estimator_name == "5 terms (biased), 1 probe"


def test_keywords_change_the_settings_of_an_architecture():
    flow = ARCHITECTURES["residual_flow_cifar10"]((1, 8, 8), blocks=(1,), hidden=4, dense_blocks=0)
    assert flow.event_shape == (1, 8, 8)
    assert flow.log_prob(torch.randn(2, 1, 8, 8)).shape == (2,)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="30×30 cannot be halved 2 times"):
        residual_flow_images((1, 30, 30))
    with pytest.raises(ShapeError, match="takes vectors"):
        residual_flow((1, 8, 8))
    with pytest.raises(ShapeError, match="takes images"):
        residual_flow_images((64,))


def test_a_small_zero_start_is_near_the_identity():
    x = torch.randn(20, 3)
    flow = residual_flow((3,), blocks=2, hidden=(8,), actnorm=False, zero_start=1e-6)
    biases = [module.g.layers[-1].bias for module in flow.modules() if isinstance(module, ResidualBlock)]
    with torch.no_grad():
        for bias in biases:
            bias.zero_()
    assert (flow.forward(x) - x).abs().max() < 1e-4


@pytest.mark.parametrize("preactivation", [True, False])
def test_a_dense_flow_begins_its_blocks_with_an_activation_or_a_weight(preactivation):
    flow = residual_flow((3,), blocks=2, hidden=(8,), activation="concatenated_sine", preactivation=preactivation)
    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    assert [block.g.preactivation for block in blocks] == [preactivation] * 2
    assert [tuple(layer.weight.shape) for layer in blocks[0].g.layers] == [(4, 6 if preactivation else 3), (3, 8)]
