"""‖W‖_{p→q}: estimate <= truth <= bound; mixed-norm and learned-norm blocks; what each bounds."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from contraflow import Chain, Exact, Flow, ResidualBlock, residual_flow, residual_flow_images, update_lipschitz
from contraflow.errors import ConfigurationError, DomainError
from contraflow.evaluation import norm_orders_picture
from contraflow.lipschitz import (
    ConcatenatedSine,
    InducedNorm,
    LearnedNorms,
    LipschitzConv2d,
    LipschitzConvNet,
    LipschitzLayer,
    LipschitzLinear,
    LipschitzMLP,
    MixedNorms,
    NarrowRange,
    SkewedRange,
    Spectral,
    certified_dense_norm,
    certified_induced_norm,
    mean_norm,
    norm_between,
    norm_orders,
)
from contraflow.lipschitz.bounds.balance import Densities, balance, refine
from contraflow.lipschitz.norms import FixedOrders, LearnedOrders
from contraflow.numerics import Anderson, Picard, dual_order, duality_map, induced_power_iteration, order_norm
from contraflow.testing import check_bijection
from contraflow.training import TrainingSettings, TrainingState, train

ORDERS = (1.0, 1.5, 2.0, 3.0, math.inf)
PAIRS = list(itertools.product(ORDERS, repeat=2))


def linear(weight: Tensor, p: float, q: float, **options) -> LipschitzLinear:
    layer = LipschitzLinear(weight.shape[1], weight.shape[0], norm=norm_between(FixedOrders((p, q)), 0), **options)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def conv(kernel: Tensor, size: tuple[int, int], p: float, q: float) -> LipschitzConv2d:
    norm = norm_between(FixedOrders((p, q)), 0)
    layer = LipschitzConv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], size, norm=norm)
    with torch.no_grad():
        layer.weight.copy_(kernel)
    return layer


def dense_matrix(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    basis = torch.eye(kernel.shape[1] * size[0] * size[1]).reshape(-1, kernel.shape[1], *size)
    return torch.nn.functional.conv2d(basis, kernel, padding=kernel.shape[-1] // 2).flatten(1).T


def closed_norm(matrix: Tensor, p: float, q: float) -> float:
    """1→q, p→∞, 2→2 and, by all sign vectors, ∞→q and p→1 = ∞→p* of the transpose."""
    if p == 1:
        return torch.linalg.vector_norm(matrix, q, dim=0).max().item()
    if q == math.inf:
        return torch.linalg.vector_norm(matrix, dual_order(p), dim=1).max().item()
    if p == math.inf:
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=matrix.shape[1])))
        return torch.linalg.vector_norm(signs @ matrix.T, q, dim=1).max().item()
    if q == 1:
        return closed_norm(matrix.T, math.inf, dual_order(p))
    assert p == q == 2
    return torch.linalg.matrix_norm(matrix, 2).item()


def brute_norm(matrix: Tensor, p: float, q: float) -> float:
    """By a dense grid on the unit circle (two inputs), each point of it a lower bound within 1e-6."""
    angle = torch.linspace(0, math.pi, 200_001)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    ratios = torch.linalg.vector_norm(x @ matrix.T, q, dim=1) / torch.linalg.vector_norm(x, p, dim=1)
    return ratios.max().item()


def is_closed(p: float, q: float) -> bool:
    return p in (1, math.inf) or q in (1, math.inf) or p == q == 2


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("rows", [2, 7])
def test_two_inputs_against_a_dense_grid(p, q, rows):
    for _ in range(3):
        matrix = torch.randn(rows, 2)
        layer = linear(matrix, p, q)
        layer.converge(1e-12, 5000)
        true = brute_norm(matrix, p, q)
        assert layer.sigma().item() == pytest.approx(true, rel=1e-6)
        assert layer.sigma().item() <= certified_induced_norm(matrix, p, q) * (1 + 1e-12)


@pytest.mark.parametrize(("p", "q"), [pair for pair in PAIRS if is_closed(*pair)])
@pytest.mark.parametrize("shape", [(5, 6), (6, 5)])
def test_exact_norms_of_larger_matrices(p, q, shape):
    matrix = torch.randn(shape)
    layer = linear(matrix, p, q)
    layer.converge(1e-13, 5000)
    true = closed_norm(matrix, p, q)
    # Where the maximum runs over all sign vectors, the search finds local maxima; the bound holds all the same.
    exact = p == 1 or q == math.inf or p == q == 2
    assert true * (1 - 1e-9 if exact else 0.95) <= layer.sigma().item() <= true * (1 + 1e-12)
    bound = certified_induced_norm(matrix, p, q)
    assert true * (1 - 1e-12) <= bound
    if exact:
        assert bound == pytest.approx(true, rel=1e-11)


def test_2_to_2_is_the_spectral_norm():
    matrix = torch.randn(9, 6)
    layer = linear(matrix, 2, 2)
    layer.converge(1e-14, 5000)
    assert layer.sigma().item() == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-8)
    assert certified_induced_norm(matrix, 2, 2) == pytest.approx(certified_dense_norm(matrix), rel=1e-11)


KERNELS = {
    "2→3, 3×3": ((3, 2, 3, 3), (3, 4)),
    "1→3, 3×3": ((3, 1, 3, 3), (4, 4)),
    "3→1, 3×3": ((1, 3, 3, 3), (3, 3)),
    "3→2, 5×5": ((2, 3, 5, 5), (2, 3)),
    "3→2, 1×1": ((2, 3, 1, 1), (3, 3)),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, math.inf), (1, math.inf), (2, 2), (2, 3), (3, 2), (1.5, 2.5), (3, 1)])
def test_convolutions_are_measured_as_operators_at_their_size(name, p, q):
    shape, size = KERNELS[name]
    kernel = torch.randn(shape)
    layer, matrix = conv(kernel, size, p, q), dense_matrix(kernel, size)
    layer.converge(1e-12, 5000)
    as_matrix = linear(matrix, p, q)
    as_matrix.converge(1e-12, 5000)
    estimate, bound = layer.sigma().item(), layer.certified_norm(kernel, p, q)
    # Local maxima: the two searches need not agree beyond this for every order.
    assert estimate == pytest.approx(as_matrix.sigma().item(), rel=0.02)
    assert max(estimate, as_matrix.sigma().item()) <= bound * (1 + 1e-9)
    if p == 1 or q == math.inf:
        assert estimate == pytest.approx(closed_norm(matrix, p, q), rel=1e-12)
        assert bound == pytest.approx(closed_norm(matrix, p, q), rel=1e-11)


@pytest.mark.parametrize(
    ("p", "q", "loose"), [(2, 3, 1.32), (3, 2, 1.03), (2.5, 1.5, 1.06), (1.5, 2.5, 1.4), (2.5, 2.5, 1.2)]
)
def test_the_upper_bound_is_as_loose_as_the_documentation_says(p, q, loose):
    """Against the best of 50 starts, on Gaussian matrices of side 32."""
    for _ in range(3):
        matrix = torch.randn(32, 32)
        found = induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, torch.randn(50, 32), p, q)  # noqa: B023
        assert 1 - 1e-9 <= certified_induced_norm(matrix, p, q) / found.sigma.max().item() <= loose


@pytest.mark.parametrize(("p", "q"), [(2.5, 1.5), (1.8, 1.8), (2.5, 2.5), (1.5, 2.5), (2.2, 2.0)])
def test_refined_densities_lower_the_bound(p, q):
    """On matrices with few large singular values, as trained ones; never below the best of 50 starts."""
    matrix = torch.randn(32, 24) @ torch.diag(torch.linspace(1, 0.2, 24))
    equal = Densities(torch.full((32,), 1 / 32), torch.full((24,), 1 / 24), torch.randn(1, 24))

    def bound(densities: Densities) -> float:
        balanced = balance(matrix, p, q, densities, (1, 1))
        return torch.linalg.matrix_norm(balanced.weight, 2).item() ** float(balanced.exponent)

    refined = refine(matrix, p, q, equal)
    assert refined.outputs.sum() == pytest.approx(1)
    assert refined.inputs.sum() == pytest.approx(1)
    best = induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, torch.randn(50, 24), p, q).sigma.max()
    assert best.item() <= bound(refined)
    assert bound(refined) - best.item() < 0.9 * (bound(equal) - best.item())
    assert certified_induced_norm(matrix, p, q) <= bound(refined) * 1.005


def test_restarts_keep_the_best():
    """Of many random matrices some single start misses the norm; the layer's search finds it."""
    missed = 0
    for _ in range(20):
        matrix = torch.randn(6, 6)
        found = induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, torch.randn(200, 6), 1.5, 3.0)  # noqa: B023
        best = found.sigma.max().item()
        missed += int(found.sigma[0].item() < 0.999 * best)
        layer = linear(matrix, 1.5, 3.0)
        layer.converge()
        assert layer.sigma().item() >= 0.999 * best
        again = linear(matrix, 1.5, 3.0)
        again.v.copy_(layer.v)
        again.converge()
        assert again.sigma().item() >= layer.sigma().item() * (1 - 1e-12)
    assert missed >= 3


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, 4.0, 60.0, math.inf])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_duality_maps_attain_hoelders_inequality(p, scale):
    y = torch.randn(4, 3, 5) * scale
    u = duality_map(y, p)
    torch.testing.assert_close((u * y).flatten(1).sum(dim=1), order_norm(y, p))
    torch.testing.assert_close(order_norm(u, dual_order(p)), torch.ones(4))
    torch.testing.assert_close(order_norm(y, p), torch.linalg.vector_norm(y.flatten(1) / scale, p, dim=1) * scale)


def test_sigma_never_falls_along_the_iteration():
    matrix, v, sigmas = torch.randn(8, 8), torch.randn(1, 8), []
    for _ in range(30):
        found = induced_power_iteration(lambda v: v @ matrix.T, lambda u: u @ matrix, v, 1.5, 3.0, max_iterations=1)
        v = found.v
        sigmas.append(found.sigma.item())
    assert all(b >= a * (1 - 1e-14) for a, b in itertools.pairwise(sigmas))
    assert sigmas[-1] > 1.05 * sigmas[0]


# Gradients


def converged_norm(matrix: Tensor, p: float, q: float) -> float:
    layer = linear(matrix, p, q)
    layer.converge(1e-15, 20_000)
    return layer.sigma().item()


@pytest.mark.parametrize("squash", [NarrowRange(), SkewedRange()])
def test_gradients_to_orders_and_weights_are_those_of_the_norm(squash):
    """Against finite differences of the converged norm."""
    orders = LearnedOrders(2, False, squash)
    with torch.no_grad():
        orders.raw.copy_(torch.tensor([-0.7, 0.4]))
    layer = LipschitzLinear(4, 5, norm=InducedNorm(orders, 0))
    layer.converge(1e-15, 20_000)
    layer.sigma().backward()
    p, q = squash(orders.raw.detach()).tolist()
    h = 1e-5
    for index, step in enumerate(((h, 0.0), (0.0, h))):
        up, down = (converged_norm(layer.weight.detach(), p + s * step[0], q + s * step[1]) for s in (1, -1))
        raw = orders.raw.detach()[index].clone().requires_grad_()
        (slope,) = torch.autograd.grad(squash(raw), raw)
        expected = (up - down) / (2 * h) * slope.item()
        assert orders.raw.grad[index].item() == pytest.approx(expected, rel=1e-5)
    direction = torch.randn_like(layer.weight)
    up, down = (converged_norm(layer.weight.detach() + s * h * direction, p, q) for s in (1, -1))
    assert (layer.weight.grad * direction).sum().item() == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_the_gradient_to_orders_is_the_one_through_the_last_iteration():
    """σ = uᵀWv with u(q) and v(p) by the duality maps, one iteration from the fixed point."""
    matrix = torch.randn(5, 4)
    layer = linear(matrix, 1.8, 2.3)
    layer.converge(1e-15, 20_000)
    p, q = (torch.tensor(value, requires_grad=True) for value in (1.8, 2.3))

    def dual_vector(y: Tensor, order: Tensor) -> Tensor:
        return y.sign() * (y.abs() / order_norm(y, order)) ** (order - 1)

    u = dual_vector(layer.v @ matrix.T, q)
    v = dual_vector(u.detach() @ matrix, p / (p - 1))
    sigma = (u * (v @ matrix.T)).sum()
    through_iteration = torch.autograd.grad(sigma, (p, q))
    at_fixed_v = (order_norm(layer.v @ matrix.T, q) / order_norm(layer.v, p))[0]
    torch.testing.assert_close(torch.autograd.grad(at_fixed_v, (p, q)), through_iteration, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("squash", "low", "high"), [(NarrowRange(), 1.5, 2.5), (SkewedRange(), 1.0, 5.0)])
def test_orders_stay_in_their_range(squash, low, high):
    s = torch.linspace(-30, 30, 2001, dtype=torch.float32, requires_grad=True)
    p = squash(s)
    assert low <= p.min() <= low + 0.01
    assert high - 0.01 <= p.max() <= high
    assert (p.diff() >= 0).all()
    assert squash(torch.zeros(())).item() == pytest.approx(2)
    (grad,) = torch.autograd.grad(p.sum(), s)
    assert grad.isfinite().all()


# Blocks


def steep(module: nn.Module, by: float = 4) -> nn.Module:
    with torch.no_grad():
        for layer in layers(module):
            layer.weight.mul_(by)
    return module


def layers(module: nn.Module) -> list[LipschitzLayer]:
    return [one for one in module.modules() if isinstance(one, LipschitzLayer)]


def learned(module: nn.Module) -> nn.Module:
    """Learned orders away from their start."""
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, LearnedOrders):
                one.raw.normal_()
    return module


NORMS = {
    "2 → 3 → 2": MixedNorms((2, 3, 2)),
    "1 → 2 → 1": MixedNorms((1, 2, 1)),
    "∞ → 2 → ∞": MixedNorms((math.inf, 2, math.inf)),
    "1.5 → 4 → 1.5": MixedNorms((1.5, 4, 1.5)),
    "learned": LearnedNorms(),
    "learned, shared, skewed": LearnedNorms(shared=True, squash=SkewedRange()),
}
DENSE = {
    name: lambda norms=norms: learned(steep(LipschitzMLP(3, (8,), bound=0.9, norms=norms)))
    for name, norms in NORMS.items()
}
CONV = {
    name: lambda norms=norms: learned(steep(LipschitzConvNet(2, 4, (3, 4), kernels=(3, 1), bound=0.9, norms=norms)))
    for name, norms in NORMS.items()
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_blocks_keep_the_laws(name, kind):
    def make() -> ResidualBlock:
        return ResidualBlock((DENSE if kind == "dense" else CONV)[name]())

    x = torch.randn(3, 3) if kind == "dense" else torch.randn(3, 2, 3, 4)
    check_bijection(make(), x, atol=1e-9, fresh=make)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", ["dense", "conv", "concatenated_sine", "clipswish", "cpila"])
def test_no_pair_of_points_beats_the_bound(name, kind):
    """Gradient ascent on ‖g(x) - g(y)‖_p / ‖x - y‖_p from 64 starts, after a step of 0.1 on every weight."""
    if kind in ("dense", "conv"):
        g = (DENSE if kind == "dense" else CONV)[name]()
    else:
        g = learned(steep(LipschitzMLP(3, (8,), bound=0.9, norms=NORMS[name], activation=kind)))
    with torch.no_grad():
        for layer in layers(g):
            layer.weight.add_(0.1 * torch.randn_like(layer.weight).sign())
    update_lipschitz(g)
    p, shape = g.norm_order, (64, 2, 3, 4) if kind == "conv" else (64, 3)
    x, y = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    optimiser, best = torch.optim.Adam([x, y], lr=0.05), 0.0
    with torch.no_grad():
        tensors = g.tensors()
    for _ in range(200):
        ratio = order_norm(g.value(tensors, x) - g.value(tensors, y), p) / order_norm(x - y, p)
        best = max(best, ratio.max().item())
        optimiser.zero_grad()
        (-ratio.sum()).backward()
        optimiser.step()
    assert best <= g.lipschitz_bound() * (1 + 1e-9)
    assert best <= 0.81 * 1.01 * math.prod(g.activation_constants())
    assert best >= 0.05


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
@pytest.mark.parametrize("name", NORMS)
def test_the_inverse_and_its_error_bound(name, solver):
    block = ResidualBlock(DENSE[name](), Exact(), solver)
    x = torch.randn(50, 3)
    found = block.solve(block.forward(x).detach())
    assert found.converged.all()
    assert found.order == pytest.approx(block.g.norm_order)
    if block.g.lipschitz_bound() < 1:
        error = found.value - x
        assert (error.norm(dim=1) <= block.inverse_error_bound(found) + 1e-15).all()
        assert (order_norm(error, found.order) <= found.error_bound(block.g.lipschitz_bound()) + 1e-15).all()


def test_the_euclidean_error_bound_pays_for_the_norm():
    """At p = ∞ an error of residual/(1 - L) in every coordinate is √D times that in ‖·‖₂, and is reported so."""
    g = LipschitzMLP(16, (16,), preactivation=False, norms=MixedNorms((math.inf,) * 3))
    block = ResidualBlock(g, inverse=Picard(tolerance=1e-3))
    x = torch.randn(4, 16)
    found = block.solve(block.forward(x).detach())
    inner = found.error_bound(g.lipschitz_bound())
    torch.testing.assert_close(block.inverse_error_bound(found), 4 * inner)


def test_picard_contracts_in_its_own_norm_where_the_euclidean_step_grows():
    """A row of 0.95: ‖W‖_{1→1} = 0.95 and ‖W‖_{2→2} = 0.95·√6 = 2.3."""
    matrix = torch.zeros(6, 6)
    matrix[0] = 0.95
    for solver in (Picard(), Anderson()):
        target = torch.randn(5, 6)
        found = solver.solve(lambda x, rows, t=target: t[rows] - x @ matrix.T, torch.zeros(5, 6), order=1.0)
        assert found.converged.all()
        truth = torch.linalg.solve(torch.eye(6) + matrix, target.T).T
        assert ((found.value - truth).abs().sum(dim=1) <= found.error_bound(0.95) + 1e-12).all()


def test_chains_that_do_not_close_are_refused():
    """Fault 5 of the reference: its default 1 → 2 → 2 → ∞ bounds no contraction."""
    with pytest.raises(ConfigurationError, match=r"1 → 2 → 2 → ∞ do not close.*End with 1"):
        MixedNorms((1, 2, 2, math.inf))
    with pytest.raises(ConfigurationError, match=r"0\.5 is not the order of a norm"):
        MixedNorms((0.5, 2, 0.5))
    with pytest.raises(ConfigurationError, match="one order more"):
        MixedNorms((2,))
    with pytest.raises(ConfigurationError, match="2 → 3 → 2 are for g with 2 layers; this one has 3 and needs 4"):
        LipschitzMLP(2, (4, 4), norms=MixedNorms((2, 3, 2)))
    with pytest.raises(DomainError, match=r"norm order 0\.5"):
        InducedNorm(FixedOrders((0.5, 2)), 0)


def test_the_default_is_spectral_and_unchanged():
    torch.manual_seed(3)
    default = LipschitzMLP(3, (6, 6))
    torch.manual_seed(3)
    named = LipschitzMLP(3, (6, 6), norms=Spectral())
    x = torch.randn(4, 3)
    assert torch.equal(default(x), named(x))
    assert default.norm_order == 2
    assert list(default.state_dict()) == list(named.state_dict())
    assert not any("orders" in name for name in default.state_dict())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("squash", [NarrowRange(), SkewedRange()])
def test_learned_orders_get_gradients_move_and_stay_in_range(shared, squash):
    torch.manual_seed(0)
    flow = steep(residual_flow((2,), blocks=2, hidden=(8, 8), norms=LearnedNorms(shared, squash), logdet=Exact()), 6)
    raws = [one.raw for one in flow.modules() if isinstance(one, LearnedOrders)]
    assert [len(raw) for raw in raws] == [1 if shared else 3] * 2
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.05)
    x = torch.randn(64, 2) * torch.tensor([1.0, 0.2])
    flow.log_prob(x)
    losses = []
    for _ in range(15):
        update_lipschitz(flow)
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        losses.append(loss.item())
        assert all(raw.grad.isfinite().all() and raw.grad.abs().max() > 0 for raw in raws)
        optimiser.step()
    assert losses[-1] < losses[0]
    low, high = (1.5, 2.5) if isinstance(squash, NarrowRange) else (1, 5)
    for orders in norm_orders(flow).blocks.values():
        assert len(orders) == 4
        assert orders[0] == orders[-1]
        assert all(low < p < high for p in orders)
        assert max(abs(p - 2) for p in orders) > 0.01
        assert len(set(orders)) == (1 if shared else 3)


def test_orders_trained_by_the_mean_norm_get_its_gradient_and_no_other():
    """Against finite differences of the mean norm of all layers; the likelihood's gradient to the orders is none."""
    flow = steep(residual_flow((2,), blocks=2, hidden=(5,), norms=LearnedNorms(objective="mean_norm"), logdet=Exact()))
    raws = [one.raw for one in learned(flow).modules() if isinstance(one, LearnedOrders)]
    for layer in layers(flow):
        layer.converge(1e-14, 20_000)
    loss = -flow.log_prob(torch.randn(4, 2)).mean()
    assert torch.autograd.grad(loss, raws, allow_unused=True) == (None, None)
    norm = mean_norm(flow)
    grads = torch.autograd.grad(norm, list(flow.parameters()), allow_unused=True)
    names = [name for (name, _), grad in zip(flow.named_parameters(), grads, strict=True) if grad is not None]
    assert names == [name for name, _ in flow.named_parameters() if name.endswith("orders.raw")]
    assert norm.item() == pytest.approx(sum(layer.sigma().item() for layer in layers(flow)) / 4)

    def converged(index: int, step: float) -> float:
        twin = copy.deepcopy(flow)
        with torch.no_grad():
            next(one.raw for one in list(twin.modules())[::-1] if isinstance(one, LearnedOrders))[index] += step
        for layer in layers(twin):
            layer.converge(1e-14, 20_000)
        return mean_norm(twin).item()

    for index in range(2):
        slope = (converged(index, 1e-5) - converged(index, -1e-5)) / 2e-5
        assert torch.autograd.grad(mean_norm(flow), raws[-1])[0][index].item() == pytest.approx(slope, rel=1e-4)
    assert mean_norm(residual_flow((2,), blocks=1, norms=LearnedNorms())) == 0


def test_training_by_the_mean_norm_lowers_it_at_fixed_weights():
    """The training loop hands the orders that gradient."""
    flow = steep(
        residual_flow((2,), blocks=2, hidden=(8, 8), norms=LearnedNorms(objective="mean_norm"), logdet=Exact())
    )
    for name, parameter in flow.named_parameters():
        parameter.requires_grad_(name.endswith("orders.raw"))
    settings = TrainingSettings(steps=30, batch_size=8, learning_rate=0.05, warmup_steps=1, validate_every=0)
    update_lipschitz(flow)
    before = mean_norm(flow).item()
    list(train(TrainingState.begin(flow, settings, 0), torch.randn(32, 2), settings))
    assert mean_norm(flow).item() < before - 0.01
    assert max(abs(p - 2) for orders in norm_orders(flow).blocks.values() for p in orders) > 0.1


def test_changed_orders_change_the_normalised_weights_at_once():
    g = steep(LipschitzMLP(3, (8,), norms=LearnedNorms()))
    x = torch.randn(4, 3)
    with torch.no_grad():
        before, bound = g(x), g.lipschitz_bound()
        g.orders.raw.add_(0.8)
        after = g(x)
    assert (after - before).abs().max() > 1e-4
    assert g.lipschitz_bound() != bound


def test_orders_train_where_weights_are_frozen():
    g = steep(LipschitzMLP(3, (8,), norms=LearnedNorms()))
    for layer in layers(g):
        layer.weight.requires_grad_(False)
    g(torch.randn(4, 3)).square().sum().backward()
    assert g.orders.raw.grad.abs().max() > 0


@pytest.mark.parametrize("norms", [MixedNorms((2, 3, 2.5, 2)), LearnedNorms(), LearnedNorms(shared=True)])
def test_state_dict_copy_and_float32(norms):
    make = lambda: residual_flow_images((1, 4, 4), blocks=(1,), hidden=4, dense_blocks=1, dense_hidden=4, norms=norms)  # noqa: E731
    flow, x = learned(steep(make())), torch.rand(3, 1, 4, 4)
    flow.log_prob(x)
    z = flow.forward(x).detach()
    names = list(flow.state_dict())
    assert sum(name.endswith("orders.raw") for name in names) == (0 if isinstance(norms, MixedNorms) else 2)
    fresh = make()
    fresh.load_state_dict(flow.state_dict(), strict=True)
    torch.testing.assert_close(fresh.forward(x).detach(), z, rtol=1e-12, atol=1e-12)
    assert norm_orders(fresh) == norm_orders(flow)
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.3)
    torch.testing.assert_close(flow.forward(x).detach(), z, rtol=0, atol=0)
    single = flow.float()
    torch.testing.assert_close(single.forward(x.float()).detach(), z.float(), rtol=1e-4, atol=1e-4)
    assert single.forward(x.float()).dtype == torch.float32


def test_zero_weights_give_no_nan():
    for norms in (MixedNorms((2, 3, 2)), MixedNorms((1, 2, 1)), LearnedNorms()):
        g = LipschitzMLP(3, (4,), norms=norms)
        with torch.no_grad():
            for layer in layers(g):
                layer.weight.zero_()
        block = ResidualBlock(g, Exact())
        for _ in range(2):
            update_lipschitz(block)
            z, logdet = block.forward_and_logdet(torch.randn(2, 3))
            (z.square().sum() + logdet.sum()).backward()
        assert all(one.grad is None or one.grad.isfinite().all() for one in block.parameters())
        assert g.lipschitz_bound() == 0


def test_the_table_and_the_picture(tmp_path):
    flow = learned(residual_flow((2,), blocks=3, hidden=(4,), norms=LearnedNorms()))
    table = norm_orders(flow)
    assert len(table.blocks) == len(str(table).splitlines()) == 3
    assert " → " in str(table)
    norm_orders_picture(table, tmp_path / "orders.png")
    assert (tmp_path / "orders.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("preactivation", [False, True])
def test_an_activation_has_its_constant_in_the_norm_of_its_place(preactivation):
    norms, sine = MixedNorms((1, 4, 1.5, 1)), ConcatenatedSine()
    g = LipschitzMLP(3, (8, 8), activation=sine, preactivation=preactivation, norms=norms)
    constants = [sine.lipschitz_in(p) for p in (1, 4, 1.5)]
    assert g.activation_constants() == tuple(constants if preactivation else constants[1:])
    weights = math.prod(layer.lipschitz_bound() for layer in layers(g))
    assert g.lipschitz_bound() == pytest.approx(weights * math.prod(g.activation_constants()), rel=1e-12)
    block = Flow((3,), Chain([ResidualBlock(g)])).certify().blocks[0]
    assert block.activations == g.activation_constants()
    assert block.bound == pytest.approx(g.lipschitz_bound(), rel=1e-12)
