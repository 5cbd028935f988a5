"""Transforms of zuko and torch.distributions as bijections, and the autoregressive flows built of them."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributions import LogNormal, transforms

from contraflow import ARCHITECTURES, Flow, from_transform
from contraflow.architectures import iaf, maf, naf, nsf
from contraflow.bijections import Inverse, MonotoneTransform, TransformBijection
from contraflow.errors import ConfigurationError, InversionError, ShapeError
from contraflow.testing import check_bijection

zuko = pytest.importorskip("zuko", reason="the extra zuko is not installed")
HIDDEN = (8, 8)


def standard(features):
    return zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, loc=torch.zeros(features), scale=torch.ones(features), buffer=True
    )


def ours(flow):
    """The zuko modules of a flow."""
    return [module.transform for module in flow.modules() if isinstance(module, TransformBijection)]


def test_maf_and_spline_flows_have_the_densities_of_zuko_with_the_same_weights():
    options = {"transforms": 3, "hidden_features": HIDDEN, "activation": torch.nn.ELU}
    x = 2 * torch.randn(6, 3)
    for flow, oracle in (
        (maf((3,), transforms=3, hidden=HIDDEN, actnorm=False), zuko.flows.MAF(3, **options)),
        (nsf((3,), transforms=3, hidden=HIDDEN, actnorm=False), zuko.flows.NSF(3, **options)),
    ):
        for theirs, mine in zip(oracle.transform.transforms, ours(flow), strict=True):
            theirs.load_state_dict(mine.state_dict())
        torch.testing.assert_close(flow.log_prob(x), oracle().log_prob(x), rtol=0, atol=1e-12)


def test_iaf_has_the_densities_of_zukos_inverses():
    flow = iaf((3,), transforms=2, hidden=HIDDEN, actnorm=False)
    oracle = zuko.flows.Flow([transform.inv for transform in ours(flow)], standard(3))
    x = torch.randn(6, 3)
    torch.testing.assert_close(flow.log_prob(x), oracle().log_prob(x), rtol=0, atol=1e-12)
    z = torch.randn(6, 3)
    assert torch.equal(flow.inverse(z), maf_like(flow, z)), "a sample is one pass through every network"


def maf_like(flow, z):
    for transform in reversed(ours(flow)):
        z = transform()(z)
    return z


def test_naf_has_the_densities_of_zukos_monotone_networks():
    flow = naf((3,), transforms=1, hidden=HIDDEN, signal=4, monotone=(6, 6), actnorm=False)
    oracle = zuko.flows.NAF(
        3, transforms=1, hidden_features=HIDDEN, activation=torch.nn.ELU, signal=4, network={"hidden_features": (6, 6)}
    )
    oracle.transform.transforms[0].load_state_dict(ours(flow)[0].state_dict())
    x = torch.randn(6, 3)
    torch.testing.assert_close(flow.log_prob(x), oracle().log_prob(x), rtol=0, atol=1e-12)


def test_naf_inverts_to_rounding_beyond_the_bounds_of_zuko():
    flow = naf((2,), transforms=2, hidden=HIDDEN, actnorm=False)
    x = torch.tensor([[0.3, -0.2], [40.0, -300.0], [0.0, 0.0]])
    torch.testing.assert_close(flow.inverse(flow(x)), x, rtol=1e-10, atol=1e-10)
    single = flow.float()
    torch.testing.assert_close(single.inverse(single(x.float())), x.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["made", "maf", "iaf", "naf", "nsf"])
def test_z_i_depends_only_on_the_preceding_x(name):
    flow = ARCHITECTURES[name]((4,), hidden=(16,), actnorm=False, **({} if name == "made" else {"transforms": 1}))
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x).sum(0), torch.randn(1, 4))[:, 0]
    assert torch.equal(jacobian, jacobian.tril())
    assert bool((jacobian.diagonal() > 0).all())
    assert bool((jacobian.tril(-1).abs().sum(1)[1:] > 0).all()), "it depends on none"


def test_every_second_transform_reverses_the_order():
    flow = maf((4,), transforms=2, hidden=(16,), actnorm=False)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x).sum(0), torch.randn(1, 4))[:, 0]
    assert bool((jacobian.triu(1).abs().sum(1)[:-1] > 0).all())


def test_results_without_gradients_have_no_graph():
    shape = (3,)
    for transform in (zuko.flows.NAF(3, transforms=1).transform, ours(naf(shape, transforms=1, hidden=HIDDEN))[0]):
        bijection = from_transform(transform, shape)
        with torch.no_grad():
            results = (
                *bijection.forward_and_logdet(torch.randn(2, 3)),
                *bijection.inverse_and_logdet(torch.zeros(2, 3)),
            )
        assert not any(result.requires_grad for result in results)


def test_directions_are_those_of_torch():
    flow = Flow((2,), from_transform(transforms.ExpTransform().inv, (2,)))
    x = LogNormal(0.0, 1.0).sample((5, 2))
    torch.testing.assert_close(flow.log_prob(x), LogNormal(0.0, 1.0).log_prob(x).sum(1))


COMPOSED = transforms.ComposeTransform([transforms.AffineTransform(0.5, -2.0), transforms.SigmoidTransform()])
PLAIN = {
    "elements of a vector": (lambda: from_transform(COMPOSED, (3,)), (3,)),
    "elements of an image": (lambda: from_transform(COMPOSED, (2, 3, 1)), (2, 3, 1)),
    "rows of a matrix": (
        lambda: from_transform(zuko.lazy.UnconditionalTransform(lu, torch.eye(3) + 0.1), (2, 3)),
        (2, 3),
    ),
    "a transform of torch": (lambda: from_transform(transforms.IndependentTransform(COMPOSED, 1), (3,)), (3,)),
    "the other way": (lambda: Inverse(from_transform(transforms.AffineTransform(1.0, 3.0), (3,))), (3,)),
}


def lu(matrix):
    return zuko.transforms.LULinearTransform(matrix)


@pytest.mark.parametrize("name", PLAIN)
def test_transforms_satisfy_the_laws(name):
    make, shape = PLAIN[name]
    check_bijection(make(), torch.randn(3, *shape), fresh=make)


def test_without_zukos_joint_evaluation(monkeypatch):
    """Importing zuko gives every transform `call_and_ladj`; without it the two methods of torch are called."""
    with_it = from_transform(COMPOSED, (3,)).forward_and_logdet(torch.ones(2, 3))
    monkeypatch.delattr(transforms.Transform, "call_and_ladj")
    without = from_transform(COMPOSED, (3,)).forward_and_logdet(torch.ones(2, 3))
    assert all(torch.equal(one, two) for one, two in zip(with_it, without, strict=True))


def test_context_reaches_a_lazy_transform():
    def make():
        return from_transform(zuko.flows.MaskedAutoregressiveTransform(3, 2, hidden_features=HIDDEN), (3,))

    context = torch.randn(3, 2)
    check_bijection(make(), torch.randn(3, 3), context, fresh=make)
    bijection, x = make(), torch.randn(1, 3)
    assert not torch.equal(bijection(x, context[:1]), bijection(x, context[1:2]))


def test_transforms_that_cannot_be_wrapped_are_refused():
    with pytest.raises(ConfigurationError, match="not a float"):
        from_transform(3.0, (2,))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is not bijective"):
        from_transform(transforms.AbsTransform(), (2,))
    with pytest.raises(ShapeError, match=r"maps events of shape \(3,\) to \(4,\)"):
        from_transform(transforms.StickBreakingTransform(), (3,))
    with pytest.raises(ShapeError, match=r"takes events of 2 dimensions, not \(3,\)"):
        from_transform(transforms.IndependentTransform(COMPOSED, 2), (3,))
    with pytest.raises(ShapeError, match=r"does not accept events of shape \(3,\)"):
        from_transform(transforms.ReshapeTransform((2,), (2,)), (3,))
    with pytest.raises(ShapeError, match=r"events \(3,\) got events of shape \(2,\)"):
        from_transform(COMPOSED, (3,))(torch.zeros(1, 2))
    with pytest.raises(ConfigurationError, match="transforms=0"):
        maf((3,), transforms=0)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'contraflow\[zuko\]'"):
        maf((3,))


def cubic(x):
    return x**3 + 0.1 * x


def test_bisection_is_accurate_to_rounding():
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        x = torch.tensor([-1e3, -2.0, -1e-3, 0.0, 0.3, 1.0, 700.0], dtype=dtype)
        solution = MonotoneTransform(cubic).inv(cubic(x))
        torch.testing.assert_close(solution, x, rtol=tolerance, atol=tolerance)


def test_gradients_of_the_inverse_are_those_of_the_implicit_function():
    slope = torch.tensor(0.7, requires_grad=True)
    y = torch.tensor([-3.0, 0.2, 5.0], requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, a: MonotoneTransform(lambda x: x**3 + a * x).inv(y), (y, slope))


def test_a_function_that_ends_before_y_is_refused():
    with pytest.raises(InversionError, match="for 2: the function is not increasing, or does not reach"):
        MonotoneTransform(torch.tanh).inv(torch.tensor([0.5, 2.0]))
