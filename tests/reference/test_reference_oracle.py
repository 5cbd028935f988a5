"""Our layers with the reference implementation's weights give the reference's numbers.

Where σ is the reference's own uᵀWv, everything agrees to float64 rounding. Our σ = ‖Wv‖ differs from it by the
(squared) angle between u and Wv, which the fixtures' float32 vectors leave at 1e-7 to 1e-4: those tests say so.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference_weights import (
    build,
    freeze_sigma,
    layer_names,
    load_fixture,
    load_weights,
    module_names,
    our_layers,
    our_modules,
    parameters,
    reference_flow,
    reference_sigma,  # noqa: F401 (a fixture)
)

from contraflow import EVALUATION
from contraflow.bijections import Logit

pytestmark = pytest.mark.usefixtures("reference_sigma")

FLOWS = ["toy2d", "toy2d_vnorms_2_3_2", "tab43", "img_1x8x8", "img_3x16x16_factor_out_elu"]


@pytest.fixture(params=FLOWS)
def fixture(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_fixture(request.param)


def test_latents_logdets_and_densities_agree_to_rounding(fixture):
    x = fixture["x"].double()
    flow = reference_flow(fixture)
    with torch.no_grad():
        z, logdet = flow.forward_and_logdet(x)
        torch.testing.assert_close(z, fixture["z64"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(logdet, fixture["logdet64"][:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(flow.log_prob(x), fixture["logpx64"][:, 0], rtol=1e-12, atol=1e-11)


def test_every_layer_alone_agrees_to_rounding(fixture):
    flow, state = reference_flow(fixture), fixture["state_dict"]
    pairs = list(zip(module_names(state), our_modules(flow), strict=True))
    if fixture["kind"] == "img":
        pairs.append(("transforms.0.chain.0", Logit(fixture["config"]["init_alpha"])))
    for name, module in pairs:
        x = fixture["layer_in64"][name]
        # ActNorms at a dense end see the image in the reference and the flattened vector in ours.
        if name.startswith("transforms.") and _is_dense(state, name):
            x = x.flatten(1)
        logdet = module.forward_and_logdet(x)[1].detach()
        torch.testing.assert_close(logdet, fixture["layer_logdet64"][name][:, 0], rtol=1e-12, atol=1e-12, msg=name)


def _is_dense(state, name: str) -> bool:
    return any(key.startswith((f"{name}.fc_module", f"{name}.nnet.nnet")) for key in state)


def test_inverse_returns_the_data(fixture):
    x = reference_flow(fixture).inverse(fixture["z64"]).detach()
    torch.testing.assert_close(x, fixture["x"].double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(x, fixture["x_rec64"], rtol=0, atol=1e-9)


def test_float32_stays_within_float32_of_the_reference(fixture):
    flow = load_weights(build(fixture), fixture["state_dict"]).float()
    z = flow.forward(fixture["x"]).detach()
    torch.testing.assert_close(z, fixture["z32"], rtol=1e-4, atol=1e-4)


def test_own_sigma_at_the_reference_v_agrees_to_the_square_of_its_angle(fixture):
    flow = load_weights(build(fixture), fixture["state_dict"])
    for name, layer in zip(layer_names(fixture["state_dict"]), our_layers(flow), strict=True):
        scale = fixture["state_dict"][f"{name}.scale"].double().item()
        assert layer.sigma().item() == pytest.approx(scale, rel=1e-5), name


def test_converged_sigma_is_never_below_the_reference_estimate(fixture):
    """The reference stops early: its σ lies up to 0.2 % low in these fixtures, and above by rounding alone.

    With mixed norms it does not keep the best of its restarts (fault 5): 6.7 % low in one layer.
    """
    low = 7e-2 if "vnorms" in fixture["config"] else 2e-3
    flow = load_weights(build(fixture), fixture["state_dict"])
    for name, layer in zip(layer_names(fixture["state_dict"]), our_layers(flow), strict=True):
        layer.converge(1e-10, 2000)
        ratio = layer.sigma().item() / fixture["state_dict"][f"{name}.scale"].double().item()
        assert 1 - 3e-7 <= ratio <= 1 + low, name


def test_loss_and_every_gradient_of_toy2d_agree():
    """Through σ too: the reference's graph holds u and v fixed, so ∂σ/∂W = u vᵀ."""
    fixture = load_fixture("toy2d")
    flow = reference_flow(fixture)
    loss = -flow.log_prob(fixture["x"].double()).mean()
    loss.backward()
    assert loss.item() == pytest.approx(fixture["loss64"], rel=1e-13)
    ours = parameters(flow, fixture["state_dict"])
    assert set(ours) == set(fixture["grads64"])
    for name, grad in fixture["grads64"].items():
        torch.testing.assert_close(ours[name].grad.reshape(grad.shape), grad, rtol=1e-9, atol=1e-12, msg=name)


def test_gradients_with_our_own_sigma_differ_by_no_more_than_its_angle():
    """∂‖Wv‖/∂W = (Wv/‖Wv‖)vᵀ: u is no longer the stored one but Wv's direction, 1e-5 away in float32 fixtures."""
    fixture = load_fixture("toy2d")
    flow = load_weights(build(fixture), fixture["state_dict"])
    (-flow.log_prob(fixture["x"].double()).mean()).backward()
    ours = parameters(flow, fixture["state_dict"])
    for name, grad in fixture["grads64"].items():
        error = (ours[name].grad.reshape(grad.shape) - grad).norm() / grad.norm()
        assert error < 2e-4, name


def test_the_reference_evaluation_estimates_bracket_our_logdet(fixture):
    """Means over repeats; one standard deviation of a single draw is several standard errors of a mean."""
    logdet = reference_flow(fixture).forward_and_logdet(fixture["x"].double())[1].detach()
    distance = (fixture["official_eval_logdet_mean"][:, 0] - logdet).abs()
    assert (distance <= fixture["official_eval_logdet_std"][:, 0] + 1e-5).all()


def test_our_evaluation_estimator_is_unbiased_on_a_trained_image_flow():
    """z-test over 200 repeats of 4 images, |z| < 4.9: false-alarm rate 4e-6."""
    fixture = load_fixture("img_1x8x8")
    flow = reference_flow(fixture).with_logdet(EVALUATION)
    generator = torch.Generator().manual_seed(1)
    x = fixture["x"].double().repeat(50, 1, 1, 1)
    with torch.no_grad():
        draws = torch.cat([flow.forward_and_logdet(x, generator=generator)[1].reshape(50, -1) for _ in range(4)])
    z = (draws.mean(0) - fixture["logdet64"][:, 0]) / (draws.std(0) / math.sqrt(len(draws)))
    assert z.abs().max() < 4.9


def test_a_checkpoint_with_its_raw_weights_gives_the_latents_to_rounding():
    fixture = load_fixture("train_img_mnist_tiny_plain")
    z = reference_flow(fixture).forward(fixture["x"].double()).detach()
    torch.testing.assert_close(z, fixture["z64_raw_weights"], rtol=1e-12, atol=1e-12)


def test_a_checkpoint_with_its_averaged_weights_gets_v_converged_anew():
    """With the stored v, z is 4e-3 off; our refresh of v is 6e-4 off, and v converged by each side 3e-5."""
    fixture = load_fixture("train_img_mnist_tiny_plain")
    x = fixture["x"].double()
    averaged = {**fixture["state_dict"], **fixture["ema_shadow_params"]}
    stale = freeze_sigma(load_weights(build(fixture), averaged), averaged)
    assert (stale.forward(x) - fixture["z64_ema_weights"]).abs().max() > 1e-3
    flow = load_weights(build(fixture), averaged)
    assert (flow.forward(x) - fixture["z64_ema_weights"]).abs().max() < 1e-3
    for layer in our_layers(flow):
        layer.converge(1e-8, 2000)
    with torch.no_grad():
        z, logdet = flow.forward_and_logdet(x)
    torch.testing.assert_close(z, fixture["z64_ema_weights"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logdet[:2], fixture["logdet64_ema_first2"][:, 0], rtol=1e-6, atol=0)
