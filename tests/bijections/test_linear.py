"""Linear maps: the laws, dense oracles, and factorisations that survive training."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from contraflow.bijections import LinearMap, MatrixLinear, OrthogonalLinear, PLULinear, QRLinear
from contraflow.errors import ConfigurationError, InversionError, ShapeError
from contraflow.numerics import householder, random_reflections
from contraflow.testing import check_bijection

MAPS = {
    "matrix": MatrixLinear,
    "plu": PLULinear,
    "qr": QRLinear,
    "householder": OrthogonalLinear,
    "exponential": partial(OrthogonalLinear, parametrisation="exponential"),
}


def trained(make, features: int, steps: int = 40, mix: Tensor | None = None) -> LinearMap:
    """After Adam steps on the likelihood of Gaussian rows times `mix`; far from its orthogonal start."""
    linear = make(features)
    mix = torch.randn(features, features) if mix is None else mix
    optimiser = torch.optim.Adam(linear.parameters(), lr=0.05)
    for _ in range(steps):
        z, logdet = linear.forward_and_logdet(torch.randn(64, features) @ mix)
        loss = (z.square().sum(1) / 2 - logdet).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return linear


def error(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("name", MAPS)
def test_laws(name, shape):
    check_bijection(trained(MAPS[name], shape[0], 5), torch.randn(3, *shape), fresh=lambda: MAPS[name](shape[0]))


@pytest.mark.parametrize("name", MAPS)
def test_the_initial_weight_is_orthogonal_and_follows_the_seed(name):
    torch.manual_seed(3)
    weight = MAPS[name](6).weight()
    assert error(weight.T @ weight, torch.eye(6)) < 1e-13
    torch.manual_seed(3)
    assert torch.equal(MAPS[name](6).weight(), weight)
    assert error(MAPS[name](6).weight(), weight) > 0.1
    assert error(weight, torch.eye(6)) > 0.1


@pytest.mark.parametrize("name", MAPS)
def test_images_are_multiplied_channel_by_channel(name):
    linear, x = trained(MAPS[name], 3, 5), torch.randn(2, 3, 4, 5)
    z, logdet = linear.forward_and_logdet(x)
    assert error(z, torch.einsum("ij,bjhw->bihw", linear.weight(), x)) < 1e-12
    assert error(logdet, 20 * torch.linalg.slogdet(linear.weight())[1]) < 1e-11


@pytest.mark.parametrize("name", ["matrix", "plu", "qr"])
def test_training_whitens_the_data(name):
    """A map without constraints reaches the covariance I that the likelihood asks for, up to the noise of its steps."""
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, -1.0], [0.5, 0.0, 1.0]])
    weight = trained(MAPS[name], 3, 150, mix).weight()
    assert error(weight @ mix.T @ mix @ weight.T, torch.eye(3)) < 0.4


def test_plu_keeps_its_factorisation():
    torch.manual_seed(0)
    start = PLULinear(6)
    torch.manual_seed(0)
    linear = trained(PLULinear, 6)
    lower, upper = linear.factors()
    assert torch.equal(linear.order, start.order)
    assert linear.order.sort().values.tolist() == list(range(6))
    assert torch.equal(lower.triu(), torch.eye(6))
    assert torch.equal(upper.tril(-1), torch.zeros(6, 6))
    assert torch.equal(upper.diagonal().sign(), start.sign)
    assert error(linear.lower, start.lower) > 0.05
    assert error(torch.eye(6)[linear.order] @ lower @ upper, linear.weight()) < 1e-12


def test_plu_undoes_a_permutation_that_is_not_its_own_inverse():
    linear, x = PLULinear(3), torch.randn(4, 3)
    linear.order.copy_(torch.tensor([1, 2, 0]))
    assert error(linear.inverse(linear(x)), x) < 1e-12


def test_qr_keeps_its_factorisation():
    linear = trained(QRLinear, 6)
    q, r = linear.factors()
    assert error(q.T @ q, torch.eye(6)) < 1e-12
    assert torch.equal(r.tril(-1), torch.zeros(6, 6))
    assert r.diagonal().min() > 0
    assert linear.upper.abs().max() > 0.05
    assert error(linear.log_scale, torch.zeros(6)) > 0.05


@pytest.mark.parametrize("name", ["householder", "exponential"])
def test_orthogonal_stays_orthogonal(name):
    linear = MAPS[name](6)
    with torch.no_grad():
        linear.entries.mul_(10)
    weight = linear.weight()
    assert error(weight.T @ weight, torch.eye(6)) < 1e-12
    expected = 1.0 if name == "exponential" or linear.features % 2 == 0 else -1.0
    assert torch.linalg.det(weight).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", MAPS)
def test_the_inverse_lipschitz_bound_is_one_over_the_smallest_singular_value(name):
    linear = trained(MAPS[name], 5)
    assert linear.inverse_lipschitz_bound() == pytest.approx(1 / torch.linalg.svdvals(linear.weight()).min().item())


@pytest.mark.parametrize("name", ["plu", "qr", "householder", "exponential"])
def test_the_inverse_calls_no_general_solver(name, monkeypatch):
    for general in ("inv", "solve", "solve_ex", "pinv", "lu_factor"):
        monkeypatch.setattr(torch.linalg, general, None)
    linear, x = trained(MAPS[name], 4, 2), torch.randn(3, 4)
    assert error(linear.inverse(linear(x)), x) < 1e-12


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (5, 2), (4, 1), (1, 1)])
def test_householder_columns_are_the_product_of_reflections(rows, columns):
    entries = 3 * torch.randn(sum(rows - 1 - i for i in range(columns)))
    product = torch.eye(rows)
    below = torch.zeros(rows, columns)
    below[tuple(torch.tril_indices(rows, columns, -1))] = entries
    for i in range(columns):
        v = below[:, i].clone()
        v[i] = 1
        product = product @ (torch.eye(rows) - 2 * torch.outer(v, v) / v.dot(v))
    assert error(householder(entries, rows, columns), product[:, :columns]) < 1e-12


def test_random_reflections_are_uniform():
    """E[Q_ij²] = 1/n for a uniformly distributed Q; a z-test of every entry, false alarm below 1e-4 in all."""
    draws = torch.stack([householder(random_reflections(3, 3), 3, 3).square() for _ in range(1000)])
    z = (draws.mean(0) - 1 / 3) / (draws.std(0) / 1000**0.5)
    assert z.abs().max() < 4.4


def test_a_singular_matrix_has_no_inverse():
    linear = MatrixLinear(2)
    with torch.no_grad():
        linear.matrix.zero_()
    with pytest.raises(InversionError, match=r"MatrixLinear\(2\) is singular.*PLULinear"):
        linear.inverse(torch.ones(1, 2))


def test_inputs_and_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"PLULinear\(3\) got an input of shape \(2, 4\)"):
        PLULinear(3)(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"QRLinear\(0\): a linear map needs"):
        QRLinear(0)
    with pytest.raises(ConfigurationError, match=r"unknown parametrisation 'cayley'.*exponential, householder"):
        OrthogonalLinear(3, "cayley")
