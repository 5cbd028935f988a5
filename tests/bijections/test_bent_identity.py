"""BentIdentity: the laws, its slopes, its bound, inputs far out."""

from __future__ import annotations

import pytest
import torch

from contraflow.bijections import BentIdentity
from contraflow.errors import ShapeError
from contraflow.testing import check_bijection


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 2, 2)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_laws(shape, scale):
    bend = BentIdentity(shape[0])
    with torch.no_grad():
        bend.r.mul_(scale)
    check_bijection(bend, 3 * torch.randn(3, *shape), fresh=lambda: BentIdentity(shape[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_asymptotic_slopes_without_overflow(dtype):
    bend = BentIdentity(1).to(dtype)
    with torch.no_grad():
        bend.r.fill_(0.75)  # c = 0.6
    x = torch.tensor([[-1e25], [-1.0], [0.0], [1.0], [1e25]], dtype=dtype)
    z, logdet = bend.forward_and_logdet(x)
    expected = torch.tensor([0.4, 1 - 0.6 / 2**0.5, 1.0, 1 + 0.6 / 2**0.5, 1.6], dtype=dtype)
    torch.testing.assert_close(logdet.exp(), expected)
    torch.testing.assert_close(z[[0, 4], 0] / x[[0, 4], 0], expected[[0, 4]])
    torch.testing.assert_close(bend.inverse(z), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("r", [0.0, 0.75, -0.75, 40.0])
def test_the_inverse_lipschitz_bound_is_the_steepest_slope(r):
    bend = BentIdentity(1)
    with torch.no_grad():
        bend.r.fill_(r)
    z = bend(torch.tensor([[-1e6], [0.0], [1e6]])).detach().requires_grad_()
    (slope,) = torch.autograd.grad(bend.inverse(z).sum(), z)
    assert bend.inverse_lipschitz_bound() == pytest.approx(slope.max().item(), rel=1e-6)


def test_another_number_of_features_is_refused():
    with pytest.raises(ShapeError, match=r"BentIdentity\(2\) got an input of shape \(4, 3\)"):
        BentIdentity(2)(torch.zeros(4, 3))
