"""How weights start: orthogonal, delta-orthogonal, near the identity or not."""

from __future__ import annotations

import pytest
import torch

from contraflow import residual_flow, residual_flow_images
from contraflow.errors import ConfigurationError
from contraflow.lipschitz import ACTIVATIONS, LipschitzConvNet, LipschitzLayer, LipschitzMLP, orthogonal_


def is_orthogonal(weight: torch.Tensor) -> bool:
    """All singular values of the layer are 1: of the centre of its kernel, which is zero elsewhere."""
    if weight.ndim == 4:
        centre = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
        if weight.count_nonzero() != centre.count_nonzero():
            return False
        weight = centre
    singular = torch.linalg.svdvals(weight.detach())
    return torch.allclose(singular, torch.ones_like(singular), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 7)])
def test_an_orthogonal_matrix(shape, dtype):
    weight = orthogonal_(torch.empty(shape, dtype=dtype))
    gram = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(shape), dtype=dtype))
    assert not torch.equal(weight, orthogonal_(weight.clone()))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [(2, 6), (6, 2)])
def test_a_delta_orthogonal_kernel_keeps_lengths_at_every_image_size(kernel, channels):
    inputs, outputs = channels
    weight = orthogonal_(torch.empty(outputs, inputs, kernel, kernel))
    for size in ((1, 1), (3, 5)):
        x = torch.randn(4, min(channels), *size)
        direction = weight if inputs < outputs else weight.transpose(0, 1).flip(2, 3)
        y = torch.nn.functional.conv2d(x, direction, padding=kernel // 2)
        torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("images", [False, True])
def test_concatenating_activations_start_orthogonal_and_others_do_not(activation, images):
    def start(**options) -> list[bool]:
        torch.manual_seed(0)
        options |= {"activation": activation}
        g = LipschitzConvNet(2, 6, (4, 4), **options) if images else LipschitzMLP(3, (6, 8), **options)
        return [is_orthogonal(layer.weight) for layer in g.layers]

    concatenates = ACTIVATIONS[activation].width_factor > 1
    assert start() == [concatenates] * 3
    assert start(initialisation="orthogonal") == [True] * 3
    assert start(initialisation="default") == [False] * 3


@pytest.mark.parametrize("initialisation", ["default", "orthogonal"])
def test_the_last_weight_is_scaled(initialisation):
    def flows(zero_start: float) -> list[torch.nn.Module]:
        options = {"zero_start": zero_start, "initialisation": initialisation}
        flows = []
        for make in (
            lambda: residual_flow((3,), blocks=1, hidden=(8,), **options),
            lambda: residual_flow_images((1, 4, 4), blocks=(1,), hidden=4, dense_blocks=1, dense_hidden=4, **options),
        ):
            torch.manual_seed(0)
            flows.append(make())
        return flows

    for small, whole in zip(flows(0.01), flows(1.0), strict=True):
        named = dict(whole.named_modules())
        for name, layer in small.named_modules():
            if isinstance(layer, LipschitzLayer):
                last = f"{name.rsplit('.', 1)[0]}.{int(name.rsplit('.', 1)[1]) + 1}" not in named
                torch.testing.assert_close(layer.weight, named[name].weight * (0.01 if last else 1))


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ConfigurationError, match=r"unknown initialisation 'he'.*default, orthogonal"):
        LipschitzMLP(2, (4,), initialisation="he")
