"""ActNorm: set by the first batch, never by a checkpoint; safe on constant channels and a batch of one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from contraflow.architectures import glow, maf, residual_flow
from contraflow.bijections import ActNorm
from contraflow.errors import ShapeError, UninitialisedWarning


def per_channel(z: torch.Tensor) -> torch.Tensor:
    return z.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("shape", [(50, 3), (6, 3, 5, 5)])
def test_the_first_batch_leaves_with_mean_zero_and_variance_one(shape):
    x = 0.05 * torch.randn(shape) + 7
    z, _ = ActNorm(3).forward_and_logdet(x)
    torch.testing.assert_close(per_channel(z).mean(1), torch.zeros(3))
    torch.testing.assert_close(per_channel(z).var(1, correction=0), torch.ones(3))


@pytest.mark.parametrize("shape", [(50, 3), (6, 3, 5, 5)])
def test_the_first_call_returns_the_logdet_of_the_new_scales(shape):
    actnorm, x = ActNorm(3), 0.05 * torch.randn(shape)
    first = actnorm.forward_and_logdet(x)
    second = actnorm.forward_and_logdet(x)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[1].min() > 1


def test_later_batches_do_not_initialise_it_again():
    actnorm = ActNorm(2)
    actnorm(torch.randn(10, 2))
    state = copy.deepcopy(actnorm.state_dict())
    actnorm(5 + 3 * torch.randn(10, 2))
    assert all(torch.equal(actnorm.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 3.7, 1e8, -1e-12])
def test_a_constant_channel_keeps_scale_one(dtype, value):
    x = torch.randn(20, 2, dtype=dtype)
    x[:, 1] = value
    actnorm = ActNorm(2).to(dtype)
    z, logdet = actnorm.forward_and_logdet(x)
    assert z.isfinite().all()
    assert logdet.isfinite().all()
    assert actnorm.log_scale[1] == 0
    assert z[:, 1].abs().max() <= 1e-6 * max(1, abs(value))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_a_batch_of_one_vector_keeps_scale_one(shape):
    z, logdet = ActNorm(3).forward_and_logdet(torch.randn(shape))
    assert z.abs().max() < 1e-12
    assert logdet.tolist() == [0.0]


def test_one_image_is_enough():
    z, _ = ActNorm(2).forward_and_logdet(torch.randn(1, 2, 8, 8))
    torch.testing.assert_close(per_channel(z).std(1, correction=0), torch.ones(2))


def test_an_empty_batch_does_not_count_as_the_first():
    actnorm = ActNorm(2)
    actnorm(torch.zeros(0, 2))
    assert not actnorm.initialised
    z = actnorm(5 + torch.randn(30, 2))
    assert z.mean().abs() < 1e-9


@pytest.mark.parametrize("used", [False, True])
def test_a_loaded_state_is_not_initialised_again(used):
    source, x = ActNorm(2), torch.randn(10, 2)
    expected = source(x)
    target = ActNorm(2)
    if used:
        target(9 + torch.randn(10, 2))
    target.load_state_dict(source.state_dict(), strict=True)
    other = 100 + 5 * torch.randn(4, 2)
    torch.testing.assert_close(target(other), source(other))
    torch.testing.assert_close(target(x), expected)


def test_after_loading_an_uninitialised_state_the_next_batch_initialises_it():
    target = ActNorm(2)
    target(torch.randn(10, 2))
    target.load_state_dict(ActNorm(2).state_dict())
    z = target(4 + torch.randn(30, 2))
    assert z.mean().abs() < 1e-9


@pytest.mark.parametrize("shape", [(30, 2), (5, 2, 3, 3)])
def test_before_its_first_batch_it_is_the_identity_and_warns(shape):
    """Evaluation and sampling do not initialise it: both use the same map, and a warning announces the change."""
    actnorm, x = ActNorm(2).eval(), 5 + torch.randn(shape)
    with pytest.warns(UninitialisedWarning, match="no batch yet"):
        z, logdet = actnorm.forward_and_logdet(x)
    with pytest.warns(UninitialisedWarning, match="no batch yet"):
        back = actnorm.train().inverse(x)
    assert torch.equal(z, x)
    assert torch.equal(back, x)
    assert not logdet.any()
    assert not actnorm.initialised
    actnorm.forward(x)
    assert actnorm.initialised
    expected = actnorm.forward(x)
    torch.testing.assert_close(actnorm.eval().inverse(expected), x)  # from here on without a word


@pytest.mark.parametrize("build", [residual_flow, maf, glow])
def test_a_fresh_flow_warns_that_its_density_will_change(build):
    flow, x = build((2,)), 5 + 3 * torch.randn(50, 2)
    for use in (lambda: flow.sample(5), lambda: flow.eval().log_prob(x), lambda: flow.log_prob_estimate(x, probes=1)):
        with pytest.warns(UninitialisedWarning):
            use()
    flow.train().log_prob(x)
    before = flow.log_prob(x, generator=torch.Generator().manual_seed(0))
    flow.sample(5)
    flow.eval()
    torch.testing.assert_close(flow.log_prob(x, generator=torch.Generator().manual_seed(0)), before)


def test_copies_stay_initialised():
    actnorm, x = ActNorm(2), torch.randn(10, 2)
    z = actnorm(x)
    for twin in (copy.deepcopy(actnorm), pickle.loads(pickle.dumps(actnorm))):
        assert torch.equal(twin(x), z)


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 3, 2, 2)])
def test_another_number_of_channels_is_refused_without_initialisation(shape):
    actnorm = ActNorm(2)
    with pytest.raises(ShapeError, match=r"ActNorm\(2\) got an input of shape"):
        actnorm(torch.zeros(shape))
    assert not actnorm.initialised
