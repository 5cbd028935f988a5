"""Bounds from above under mixed and learned norms: valid for any density, tight, kept along training, unbeaten."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from contraflow import Exact, Flow, rescale_to_certificate, residual_flow, residual_flow_images, update_lipschitz
from contraflow.lipschitz import (
    InducedNorm,
    LearnedNorms,
    LipschitzConvNet,
    LipschitzLayer,
    LipschitzLinear,
    LipschitzMLP,
    MixedNorms,
    SkewedRange,
    certified_induced_norm,
)
from contraflow.lipschitz.bounds.balance import Densities, balance, densities_near
from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.lipschitz.norms import LearnedOrders
from contraflow.numerics import induced_power_iteration, order_norm
from contraflow.training.average import with_weights

#: One of every kind: both sides of 2 in both directions, the chords, the edges.
PAIRS = [
    (2.3, 2.3),
    (1.7, 1.7),
    (2.0, 2.4),
    (1.6, 2.0),
    (1.6, 2.4),
    (1.8, 3.0),
    (2.4, 2.1),
    (1.9, 1.6),
    (2.4, 1.6),
    (4.0, 1.2),
    (math.inf, 3.0),
    (1.5, 1.0),
    (math.inf, 1.0),
    (1.01, 50.0),
]


def matrix_of(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    basis = torch.eye(kernel.shape[1] * size[0] * size[1]).reshape(-1, kernel.shape[1], *size)
    return nn.functional.conv2d(basis, kernel, padding=kernel.shape[-1] // 2).flatten(1).T


def searched_norm(matrix: Tensor, p: float, q: float) -> float:
    starts = torch.randn(40, matrix.shape[1])
    return induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, starts, p, q).sigma.max().item()


def layers(module: nn.Module) -> list[LipschitzLayer]:
    return [one for one in module.modules() if isinstance(one, LipschitzLayer)]


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_any_densities_bound_a_matrix(p, q):
    for rows, columns in ((6, 4), (3, 7)):
        weight = torch.randn(rows, columns)
        densities = Densities(
            torch.rand(rows).softmax(0), (3 * torch.randn(columns)).softmax(0), torch.ones(1, columns)
        )
        found = balance(weight, p, q, densities, (1, 1))
        bound = torch.linalg.matrix_norm(found.weight, 2).item() ** found.exponent
        assert searched_norm(weight, p, q) <= bound * (1 + 1e-9)


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("size", [(3, 2), (1, 3)])
def test_any_densities_bound_a_convolution_at_its_size(p, q, size):
    kernel = torch.randn(3, 2, 3, 3)
    densities = Densities(torch.rand(3).softmax(0), (2 * torch.randn(2)).softmax(0), torch.ones(1, 2, *size))
    found = balance(kernel, p, q, densities, size)
    bound = torch.linalg.matrix_norm(matrix_of(found.weight, size), 2).item() ** found.exponent
    assert searched_norm(matrix_of(kernel, size), p, q) <= bound * (1 + 1e-9)


def test_the_column_of_the_fullest_pixel_counts():
    """Positive kernels near 1→1: the middle of 3×3 pixels sees nine taps, a corner four."""
    kernel, densities = (
        torch.rand(2, 2, 3, 3) + 0.5,
        Densities(torch.ones(2) / 2, torch.ones(2) / 2, torch.ones(1, 2, 3, 3)),
    )
    for p, q in ((1.02, 1.02), (50.0, 50.0)):
        found = balance(kernel, p, q, densities, (3, 3))
        bound = torch.linalg.matrix_norm(matrix_of(found.weight, (3, 3)), 2).item() ** found.exponent
        assert 1 <= bound / searched_norm(matrix_of(kernel, (3, 3)), p, q) < 1.1


@pytest.mark.parametrize(("p", "q"), [pair for pair in PAIRS if pair[1] > 1 and pair[0] < math.inf])
def test_the_densities_of_the_maximiser_are_exact_for_positive_matrices(p, q):
    """For p >= q every end of the segment attains the norm (Perron and Frobenius); for p < q, if W has rank one."""
    weight = torch.rand(6, 5) + 0.1 if p >= q else torch.outer(torch.rand(6) + 0.1, torch.rand(5) + 0.1)
    found = induced_power_iteration(
        lambda v: v @ weight.T, lambda u: u @ weight, torch.ones(1, 5), p, q, tolerance=1e-14, max_iterations=5000
    )
    operator = LinearOperator(weight, lambda w, x: x @ w.T, lambda w: w.T)
    near = densities_near(operator, found.v, (p, q), floor=0.0)
    bound = balance(weight, p, q, near, (1, 1))
    assert torch.linalg.matrix_norm(bound.weight, 2).item() ** bound.exponent == pytest.approx(
        found.sigma.item(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("p", "q", "loose"), [(2.4, 2.4, 1.02), (1.6, 1.6, 1.03), (2, 2.4, 1.02), (1.6, 2.4, 1.05), (2.4, 1.6, 1.03)]
)
def test_matrices_with_few_large_singular_values_are_bounded_tightly(p, q, loose):
    """What training makes of weights: singular values 1, 1/2, 1/4 … in random directions, of unequal entries."""
    for _ in range(3):
        u, _ = torch.linalg.qr(torch.randn(40, 40).pow(3))
        v, _ = torch.linalg.qr(torch.randn(30, 30).pow(3))
        weight = u[:, :30] * 0.5 ** torch.arange(30.0) @ v.T
        assert 1 - 1e-9 <= certified_induced_norm(weight, p, q) / searched_norm(weight, p, q) <= loose


FLOWS = {
    "2 → 2.4 → 1.7 → 2": lambda: residual_flow((3,), blocks=2, hidden=(16, 16), norms=MixedNorms((2, 2.4, 1.7, 2))),
    "1 → 2 → ∞ → 1": lambda: residual_flow((3,), blocks=2, hidden=(16, 16), norms=MixedNorms((1, 2, math.inf, 1))),
    "learned": lambda: residual_flow((3,), blocks=2, hidden=(16, 16), norms=LearnedNorms(), logdet=Exact()),
    "learned, shared, skewed": lambda: residual_flow(
        (3,), blocks=2, hidden=(16, 16), norms=LearnedNorms(True, SkewedRange()), logdet=Exact()
    ),
    "images": lambda: residual_flow_images(
        (1, 4, 4), blocks=(1, 1), hidden=4, dense_blocks=1, dense_hidden=6, norms=LearnedNorms(), logdet=Exact()
    ),
}


def after_huge_steps(flow: Flow, steps: int = 2) -> Flow:
    """Adam at 0.1 under certified updates, every one of which has to keep every layer within its target."""
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.1)
    x = torch.randn(24, *flow.event_shape)
    for _ in range(steps):
        update_lipschitz(flow, certified=True)
        assert flow.certify().within_target, str(flow.certify())
        loss = -flow.log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return flow


def largest_quotient(g: nn.Module, shape: tuple[int, ...], p: float) -> float:
    """Gradient ascent on ‖g(x) - g(y)‖_p / ‖x - y‖_p from 64 starts, near and far."""
    scale = torch.logspace(-2, 1.5, 64).reshape(-1, *[1] * len(shape))
    x = (torch.randn(64, *shape) * 3).requires_grad_()
    y = (x.detach() + scale * torch.randn(64, *shape)).requires_grad_()
    optimiser, best = torch.optim.Adam([x, y], lr=0.1), 0.0
    with torch.no_grad():
        tensors = g.tensors()
    for _ in range(40):
        quotient = order_norm(g.value(tensors, x) - g.value(tensors, y), p) / order_norm(x - y, p)
        best = max(best, quotient.max().item())
        x.grad, y.grad = torch.autograd.grad(-quotient.sum(), [x, y])
        optimiser.step()
    return best


@pytest.mark.parametrize("name", FLOWS)
def test_after_huge_steps_all_layers_are_within_target_and_no_attack_beats_the_bound(name):
    torch.set_default_dtype(torch.float32)
    flow = after_huge_steps(FLOWS[name]())
    update_lipschitz(flow, certified=True)
    certificate = flow.certify()
    assert certificate.within_target
    assert certificate.invertible
    networks = [one for one in flow.modules() if isinstance(one, LipschitzMLP | LipschitzConvNet)]
    for g, block in zip(networks, certificate.blocks, strict=True):
        assert block.order == pytest.approx(g.norm_order)
        shape = tuple(g.layers[0].v.shape[1:])
        if isinstance(g, LipschitzConvNet):
            shape = (shape[0], *g.layers[0].size)
        assert largest_quotient(g, shape, block.order) <= block.bound * (1 + 1e-5)


def test_an_attack_comes_near_the_bound_of_aligned_layers():
    """Equal positive entries: the bound of 2.3 → 1.7 → 2.3 is attained by equal inputs, but for the activations."""
    for norms in (MixedNorms((2.3, 1.7, 2.3)), MixedNorms((1.6, 2.2, 1.6))):
        g = LipschitzMLP(3, (16,), bound=0.97, norms=norms)
        with torch.no_grad():
            for layer in layers(g):
                layer.weight.fill_(1.0)
                layer.bias.zero_()
        update_lipschitz(g, certified=True)
        found = largest_quotient(g, (3,), g.norm_order)
        assert 0.7 * g.lipschitz_bound() < found <= g.lipschitz_bound()


@pytest.mark.parametrize("name", FLOWS)
def test_averaged_weights_are_rescaled_to_their_certificate(name):
    flow = FLOWS[name]()
    with torch.no_grad():
        for layer in layers(flow):
            layer.weight.mul_(5).add_(torch.randn_like(layer.weight))
        for one in flow.modules():
            if isinstance(one, LearnedOrders):
                one.raw.normal_()
    update_lipschitz(flow)
    twin = with_weights(flow, {name: one.detach() for name, one in flow.named_parameters()})
    assert twin.certify().within_target
    assert rescale_to_certificate(twin) == 0
    # Not by more than the bound is loose: half of c at the very least.
    assert min(one.estimate / one.target for block in twin.certify().blocks for one in block.layers) > 0.5


@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (2.2, 2.2), (1.8, 1.8), (1.7, 2.4), (2.4, 1.7), (2.4, 2.2)])
def test_certified_normalisation_has_the_gradient_of_its_bound(p, q):
    """To the weight and to both orders, against central differences of the singular value at fixed densities."""
    orders = LearnedOrders(2, False, lambda s: s)
    with torch.no_grad():
        orders.raw.copy_(torch.tensor([p, q]))
    layer = LipschitzLinear(5, 6, norm=InducedNorm(orders, 0))
    with torch.no_grad():
        layer.weight.mul_(6)
    update_lipschitz(layer, certified=True)
    # The top of the balanced operator to the last digit: its part in the gradient is then none.
    found = layer.norm.balanced_exactly(layer.operator(), layer.densities)
    layer.densities = layer.densities._replace(v=torch.linalg.svd(found.weight)[2][:1])

    def bound(weight: Tensor, first: float, second: float) -> float:
        one = balance(weight, first, second, layer.densities, (1, 1))
        return torch.linalg.matrix_norm(one.weight, 2).item() ** float(one.exponent)

    measure = layer.measure()
    weight_grad, order_grad = torch.autograd.grad(measure, (layer.weight, orders.raw))
    weight, direction, h = layer.weight.detach(), torch.randn_like(layer.weight), 1e-6
    slope = (bound(weight + h * direction, p, q) - bound(weight - h * direction, p, q)) / (2 * h)
    assert (weight_grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)
    if p == q == 2:
        # A corner where three formulas meet: the one gradient between them is that of the norm itself.
        image, size = layer.apply_weight(weight, layer.v), layer.v.norm()
        a = torch.tensor([2.0, 2.0], requires_grad=True)
        ratio = (order_norm(image, a[1]) / order_norm(layer.v / size, a[0])).sum()
        (exact,) = torch.autograd.grad(ratio, a)
        torch.testing.assert_close(order_grad, exact, rtol=0.3, atol=0.05 * measure.item())
        return
    assert order_grad.isfinite().all()
    # On the diagonal two formulas meet, so that both orders move together.
    moves = ((h, h),) if p == q else ((h, 0.0), (0.0, h))
    for first, second in moves:
        slope = (bound(weight, p + first, q + second) - bound(weight, p - first, q - second)) / (2 * h)
        ours = order_grad @ torch.tensor([first, second]) / h
        assert ours.item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_training_under_certified_updates_moves_orders_and_lowers_the_loss():
    torch.manual_seed(0)
    flow = residual_flow((2,), blocks=2, hidden=(8, 8), norms=LearnedNorms(), logdet=Exact())
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.02)
    x = torch.randn(64, 2) * torch.tensor([1.0, 0.2])
    flow.log_prob(x)
    losses = []
    for _ in range(20):
        update_lipschitz(flow, certified=True)
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    raws = [one.raw.abs().max().item() for one in flow.modules() if isinstance(one, LearnedOrders)]
    assert min(raws) > 0.05
    assert losses[-1] < losses[0] - 0.03


def test_an_update_by_estimates_forgets_the_certified_one():
    flow = FLOWS["learned"]()
    x = torch.randn(5, 3)
    flow.log_prob(x)
    after_huge_steps(flow, steps=1)
    update_lipschitz(flow)
    plain = flow.forward(x)
    update_lipschitz(flow, certified=True)
    certified = flow.forward(x)
    update_lipschitz(flow)
    torch.testing.assert_close(flow.forward(x), plain, rtol=1e-4, atol=1e-5)
    assert (plain - certified).abs().max() > 1e-3


def test_the_certificate_names_norms_and_methods():
    flow = FLOWS["1 → 2 → ∞ → 1"]()
    update_lipschitz(flow)
    certificate = flow.certify()
    text = str(certificate)
    assert "ℓ_1" in text
    for norm, method in (
        ("1 → 2", "largest column, exact"),
        ("2 → ∞", "largest row, exact"),
        ("∞ → 1", "spectral norm after a change of density"),
    ):
        assert any(norm in line and line.endswith(method) for line in text.splitlines()), text
    values = json.loads(json.dumps(certificate.as_dict(), allow_nan=False))
    assert values["blocks"][0]["norm"] == "1"
    assert values["blocks"][0]["layers"][1]["norm"] == "2 → ∞"
    for layer in (one for block in certificate.blocks for one in block.layers[:2]):
        assert layer.estimate == pytest.approx(layer.bound, rel=1e-6)  # the closed cases are exact
    spectral = residual_flow((2,), blocks=1, hidden=(4,)).certify()
    assert "bounded by" not in str(spectral)
    assert [one.method for one in spectral.blocks[0].layers] == ["singular values"] * 2
