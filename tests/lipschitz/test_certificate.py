"""Certified bounds: above the true norm, kept along training, and not broken by an adversary."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from contraflow import (
    Chain,
    Exact,
    Flow,
    ModuleContraction,
    ResidualBlock,
    rescale_to_certificate,
    residual_flow,
    residual_flow_images,
    update_lipschitz,
)
from contraflow.bijections import ActNorm
from contraflow.errors import DomainError
from contraflow.lipschitz import (
    LipschitzConv2d,
    LipschitzConvNet,
    LipschitzLayer,
    LipschitzLinear,
    LipschitzMLP,
    LipschitzNetwork,
    operator_norms,
)
from contraflow.lipschitz.activations import Activation, LipSwish
from contraflow.lipschitz.bounds.gram import convolution_gram, dense_gram
from contraflow.lipschitz.bounds.spectral import certified_conv_norm
from contraflow.numerics import BlockTridiagonal, is_below, norm_from_above
from contraflow.preprocessing import ImagePreprocessing


def dense_matrix(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    basis = torch.eye(kernel.shape[1] * size[0] * size[1]).reshape(-1, kernel.shape[1], *size)
    return nn.functional.conv2d(basis, kernel, padding=kernel.shape[-1] // 2).flatten(1).T


def layers(module: nn.Module) -> list[LipschitzLayer]:
    return [one for one in module.modules() if isinstance(one, LipschitzLayer)]


def stretched(flow: Flow, factor: float = 4.0) -> Flow:
    with torch.no_grad():
        for layer in layers(flow):
            layer.weight.mul_(factor)
    return flow


def small_images() -> Flow:
    return residual_flow_images((1, 8, 8), blocks=(1, 1), hidden=8, dense_blocks=1, dense_hidden=6, logdet=Exact())


SIZES = [
    (1, 1, 3, (7, 7)),
    (5, 2, 3, (6, 4)),
    (2, 5, 3, (4, 6)),
    (3, 3, 5, (7, 7)),
    (2, 2, 3, (1, 3)),
    (2, 2, 5, (1, 1)),
    (3, 2, 7, (5, 4)),
]


@pytest.mark.parametrize(("outputs", "inputs", "k", "size"), SIZES)
def test_block_cholesky_separates_the_true_norm_of_a_convolution(outputs, inputs, k, size):
    """The proof fails a billionth below the true norm of the dense matrix and succeeds a billionth above."""
    kernels = torch.randn(3, outputs, inputs, k, k)
    gram = convolution_gram(kernels, size)
    true = torch.stack([torch.linalg.matrix_norm(dense_matrix(one, size), 2) for one in kernels])
    assert not is_below(gram, (true * (1 - 1e-9)).square()).any()
    assert is_below(gram, (true * (1 + 1e-9)).square()).all()


def test_a_gram_matrix_in_blocks_is_the_gram_matrix():
    kernel = torch.randn(4, 2, 3, 3)
    gram = convolution_gram(kernel[None], (5, 4))
    full = torch.zeros(40, 40)
    start = 0
    for index, block in enumerate(gram.diagonal):
        end = start + block.shape[-1]
        full[start:end, start:end] = block[0]
        if index < len(gram.upper):
            after = end + gram.upper[index].shape[-1]
            full[start:end, end:after] = gram.upper[index][0]
            full[end:after, start:end] = gram.upper[index][0].T
        start = end
    matrix = dense_matrix(kernel, (5, 4))
    order = torch.arange(40).reshape(2, 5, 4).permute(1, 2, 0).flatten()  # rows of pixels, then columns, then channels
    torch.testing.assert_close(full, (matrix.T @ matrix)[order][:, order])


@pytest.mark.parametrize("low", [1.0, 0.999, 0.9, 0.3, 0.0])
def test_a_bound_is_tight_however_low_the_estimate(low):
    weights = torch.randn(4, 9, 14)
    true = torch.linalg.matrix_norm(weights, 2)
    bound = norm_from_above(dense_gram(weights), low * true, 1e-3)
    assert (bound >= true).all()
    if low:
        assert (bound <= true * 1.0025).all()


def test_a_target_above_the_norm_is_proved_exactly():
    weights = torch.stack([torch.diag(torch.tensor([0.9799, 0.5])), torch.diag(torch.tensor([0.9801, 0.5]))])
    target = torch.full((2,), 0.98)
    bound = norm_from_above(dense_gram(weights), torch.full((2,), 0.9795), 1e-3, target)
    assert bound[0] <= 0.98 < bound[1]


def test_entries_that_are_not_finite_have_no_bound():
    gram = BlockTridiagonal([torch.full((1, 2, 2), torch.nan)], [], 1)
    assert norm_from_above(gram, torch.ones(1), 1e-3).isinf().all()


def test_the_factorised_convolution_bound_is_within_two_per_mille(monkeypatch):
    monkeypatch.setattr("contraflow.lipschitz.bounds.spectral._DENSE", 0)
    for outputs, inputs, k, size in SIZES:
        kernel = torch.randn(outputs, inputs, k, k)
        true = torch.linalg.matrix_norm(dense_matrix(kernel, size), 2).item()
        assert true <= certified_conv_norm(kernel, size=size) <= 1.002 * true


@pytest.mark.parametrize("make", [lambda: residual_flow((3,), blocks=2, hidden=(16, 16)), small_images])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rescaled_layers_stay_within_their_target(make, dtype):
    flow = stretched(make()).to(dtype)
    update_lipschitz(flow, tolerance=0.1)
    assert not flow.certify().within_target
    assert rescale_to_certificate(flow) > 0
    certificate = flow.certify()
    assert certificate.within_target
    assert certificate.invertible
    for layer in layers(flow):
        matrix = layer.normalised().detach().double()
        matrix = matrix if matrix.ndim == 2 else dense_matrix(matrix, layer.size)
        assert 0.97 < torch.linalg.matrix_norm(matrix, 2) <= 0.98
    assert rescale_to_certificate(flow) == 0


def test_rescaled_layers_stay_within_their_target_when_v_is_refreshed():
    """Float32 flows in training, whose norms differ from c in the last digits only."""
    for seed in range(3):
        torch.manual_seed(seed)
        flow = residual_flow((2,), blocks=4, hidden=(32, 32), activation="lipswish", logdet=Exact()).float()
        optimiser = torch.optim.AdamW(flow.parameters(), lr=2e-2)
        x = torch.randn(256, 2) * torch.tensor([1.0, 0.2])
        for _ in range(40):
            update_lipschitz(flow)
            loss = -flow.log_prob(x).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        rescale_to_certificate(flow)
        for _ in range(3):
            assert flow.certify().within_target
            update_lipschitz(flow)


def test_a_certificate_changes_nothing_and_is_json():
    flow = stretched(small_images())
    update_lipschitz(flow)
    before = {name: one.clone() for name, one in flow.state_dict().items()}
    certificate = flow.certify()
    assert all(torch.equal(one, before[name]) for name, one in flow.state_dict().items())
    values = json.loads(json.dumps(certificate.as_dict()))
    assert len(values["blocks"]) == 3
    for block in certificate.blocks:
        assert block.estimate <= block.bound
        assert block.margin == pytest.approx(1 - block.bound)
        assert block.inverse_error == pytest.approx(1 / (1 - block.bound))
        assert all(one.estimate <= one.bound for one in block.layers)
        assert block.name in str(certificate)


def test_a_bound_that_is_a_claim_is_reported_as_uncertified():
    claimed = ResidualBlock(ModuleContraction(nn.Tanh(), 0.9), Exact())
    certificate = Flow((2,), Chain([ResidualBlock(LipschitzMLP(2, (4,))), ActNorm(2), claimed])).certify()
    assert certificate.uncertified == ("bijection.bijections.2",)
    assert not certificate.invertible
    assert not certificate.within_target
    assert "UNCERTIFIED" in str(certificate)
    assert "0.90000 asserted" in str(certificate)
    assert len(certificate.blocks) == 2


class Steep(Activation):
    """Of a user who forgot to state the constant: the inherited 1 is wrong by a factor 3."""

    def core(self, s: Tensor) -> Tensor:
        return 3 * torch.sin(s)

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * torch.sin(s), 3 * torch.cos(s)

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        value.copy_(3 * torch.sin(s))
        return 3 * torch.cos(s), -3 * torch.sin(s)


class Doubled(LipschitzMLP):
    def value(self, tensors, x):
        return 2 * super().value(tensors, x)


@pytest.mark.parametrize("g", [lambda: LipschitzMLP(2, (4,), activation=Steep()), lambda: Doubled(2, (4,))])
def test_networks_that_a_user_changed_are_uncertified(g):
    assert Flow((2,), Chain([ResidualBlock(g())])).certify().uncertified == ("bijection.bijections.0",)


def test_a_flow_without_contractions_has_an_empty_certificate():
    certificate = Flow((2,), Chain([ActNorm(2)])).certify()
    assert certificate.blocks == ()
    assert "nothing to certify" in str(certificate)


def test_weights_that_are_not_finite_are_refused():
    flow = residual_flow((2,), blocks=1, hidden=(4,)).float()
    with torch.no_grad():
        layers(flow)[0].weight.fill_(torch.inf)
    with pytest.raises((DomainError, RuntimeError)):
        rescale_to_certificate(flow)


def test_a_stuck_power_iteration_is_found_and_restarted():
    """v exactly at the second singular vector: the estimate rests at 1 while the norm is 4."""
    layer = LipschitzLinear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([4.0, 1.0, 0.5])))
        layer.v.copy_(torch.tensor([[0.0, 1.0, 0.0]]))
    layer.warm = True
    update_lipschitz(layer)
    assert layer.lipschitz_bound() == pytest.approx(4 * 0.98)
    update_lipschitz(layer, certified=True)
    assert layer.lipschitz_bound() <= 0.98
    assert layer.sigma().item() == pytest.approx(4, rel=1e-4)


def test_certified_normalisation_has_the_gradient_of_sigma():
    """d/dW of W/(σ·κ/c) with κ = u/σ held fixed, checked against autograd of the closed formula."""
    layer = LipschitzConv2d(2, 3, 3, (4, 4), bound=0.7)
    with torch.no_grad():
        layer.weight.mul_(5)
    update_lipschitz(layer, certified=True)
    direction = torch.randn_like(layer.weight)
    (ours,) = torch.autograd.grad((layer.normalised() * direction).sum(), layer.weight)
    weight = layer.weight.detach().clone().requires_grad_()
    sigma = layer.apply_weight(weight, layer.v).norm()
    (theirs,) = torch.autograd.grad((weight * 0.7 / (sigma * layer.excess) * direction).sum(), weight)
    torch.testing.assert_close(ours, theirs)
    assert 1 < layer.excess < 1.02


def digits_at_28() -> Tensor:
    images = torch.tensor(load_digits().images[:256], dtype=torch.float32)[:, None] / 16 * 255
    return nn.functional.interpolate(images, size=(28, 28), mode="bilinear").round().long()


def train_and_check(steps: int, hidden: int, *, every: int, last_rate: float) -> Flow:
    """The paper's schedule (Adam, warm-up over 1,000 steps to 1e-3), certificates in between, then one huge step."""
    torch.set_default_dtype(torch.float32)
    data = digits_at_28()
    flow = residual_flow_images(
        (1, 28, 28),
        blocks=(2, 2, 2),
        hidden=hidden,
        dense_hidden=hidden,
        preprocessing=ImagePreprocessing(256, None, 1e-6),
    )
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=5e-4, fused=True)
    batch = 64 if hidden == 64 else 16
    for step in range(steps + 1):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 1000) if step < steps else last_rate
        update_lipschitz(flow, certified=True)
        if step % every == 0:
            assert flow.certify().within_target, str(flow.certify())
        rows = torch.randint(0, len(data), (batch,), generator=generator)
        loss = -flow.log_prob(data[rows], generator=generator).mean() / flow.dimensions
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
    update_lipschitz(flow, certified=True)
    return flow


def largest_quotient(g: nn.Module, shape: tuple[int, ...], starts: int = 32, steps: int = 60) -> float:
    """Gradient ascent on ‖g(x) - g(y)‖ / ‖x - y‖ from many starts, near and far."""
    scale = torch.logspace(-2, 1.5, starts).reshape(-1, *[1] * len(shape))
    x = (torch.randn(starts, *shape) * 3).requires_grad_()
    y = (x.detach() + scale * torch.randn(starts, *shape)).requires_grad_()
    optimiser = torch.optim.Adam([x, y], lr=0.1)
    best = 0.0
    for _ in range(steps):
        quotient = (g(x) - g(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        best = max(best, quotient.max().item())
        x.grad, y.grad = torch.autograd.grad(-quotient.sum(), [x, y])
        optimiser.step()
    return best


def attack(flow: Flow) -> None:
    certificate = flow.certify()
    assert certificate.within_target, str(certificate)
    for block, stated in zip(
        [one for one in flow.modules() if isinstance(one, ResidualBlock)], certificate.blocks, strict=True
    ):
        last = block.g.layers[-1]
        shape = (len(last.weight), *last.size) if isinstance(last, LipschitzConv2d) else (len(last.weight),)
        with torch.no_grad():
            for layer in block.g.layers:
                layer.normalised()
        assert largest_quotient(frozen(block.g), tuple(shape)) <= stated.bound


def frozen(g: LipschitzNetwork):
    with torch.no_grad():
        tensors = g.tensors()
    return lambda x: g.value(tensors, x)


def test_no_block_exceeds_its_target_along_training_and_after_a_huge_step():
    attack(train_and_check(20, 8, every=10, last_rate=1e-1))


@pytest.mark.parametrize("activation", ["clipswish", "concatenated_sine", "cpila"])
def test_no_block_of_a_concatenating_activation_exceeds_its_certificate(activation):
    """Trained on data far from the start, and after a huge step."""
    flow = residual_flow_images((1, 4, 4), blocks=(2,), hidden=8, dense_blocks=1, dense_hidden=8, activation=activation)
    data = torch.randn(64, 1, 4, 4) * torch.linspace(0.1, 3, 16).reshape(4, 4)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
    for step in range(16):
        if step == 15:
            optimiser.param_groups[0]["lr"] = 1.0
        update_lipschitz(flow, certified=True)
        optimiser.zero_grad()
        (-flow.log_prob(data).mean()).backward()
        optimiser.step()
    update_lipschitz(flow, certified=True)
    attack(flow)


@pytest.mark.parametrize("activation", ["clipswish", "concatenated_sine", "cpila"])
@pytest.mark.parametrize("images", [False, True])
def test_an_adversary_reaches_the_bound_of_a_concatenating_activation(activation, images):
    """One unit, at its steepest point, seen by a layer along the direction of its two slopes: not a half too much."""
    options = {"bound": 0.97, "activation": activation, "preactivation": False}
    g = LipschitzConvNet(1, 2, (1, 1), kernels=(1, 1), **options) if images else LipschitzMLP(1, (2,), **options)
    z = torch.linspace(-4, 4, 80_001)[:, None].requires_grad_()
    features = g.activations[0](z)
    slopes = torch.cat([torch.autograd.grad(one.sum(), z, retain_graph=True)[0] for one in features.unbind(1)], dim=1)
    steepest = slopes.norm(dim=1).argmax()
    with torch.no_grad():
        first, last = g.layers
        first.weight.fill_(5.0)
        first.bias.copy_(z[steepest])
        last.weight.copy_(7 * slopes[steepest].reshape(last.weight.shape))
    update_lipschitz(g)
    bound = g.lipschitz_bound()
    assert bound == pytest.approx(0.97**2 * g.activations[0].lipschitz_constant, rel=1e-5)
    assert 0.999 * bound < largest_quotient(frozen(g), (1, 1, 1) if images else (1,), steps=100) <= bound


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_block_exceeds_its_target_along_600_steps_of_the_papers_schedule():
    attack(train_and_check(600, 64, every=10, last_rate=1e-1))


@pytest.mark.parametrize(
    "make", [lambda: LipschitzMLP(3, (16, 16), bound=0.97), lambda: LipschitzConvNet(2, 6, (5, 5), bound=0.97)]
)
def test_an_adversary_comes_near_the_bound_of_aligned_layers_but_not_over(make):
    """Layers of one singular vector each, aligned, without activation slack: the attack has teeth, it comes near."""
    g = make()
    for one in g.activations:
        assert isinstance(one, LipSwish)
    with torch.no_grad():
        for layer in g.layers:
            shape = layer.weight.shape[2:]
            layer.weight.copy_(torch.ones_like(layer.weight) if shape != (3, 3) else torch.ones_like(layer.weight) / 3)
            layer.bias.fill_(0.0)
    update_lipschitz(g, certified=True)
    bound = g.lipschitz_bound()
    shape = (3,) if isinstance(g, LipschitzMLP) else (2, 5, 5)
    found = largest_quotient(frozen(g), shape, steps=200)
    assert 0.5 * bound < found <= bound


def test_layers_of_one_shape_are_refreshed_as_one_stack(monkeypatch):
    """One power iteration for each of the three shapes, and none where nothing has moved."""
    flow = residual_flow((2,), blocks=4, hidden=(16, 16))
    stacks, iterate = [], operator_norms.power_iteration

    def counted(operator, adjoint, v, **limits):
        stacks.append(len(v))
        return iterate(operator, adjoint, v, **limits)

    monkeypatch.setattr(operator_norms, "power_iteration", counted)
    flow.certify()
    assert stacks == [4, 4, 4]
    flow.certify()
    assert stacks == [4, 4, 4]
