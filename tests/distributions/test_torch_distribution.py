"""Distributions of torch.distributions as base: the density integrates to one, or the base is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Generator, Tensor, nn
from torch import distributions as D

from contraflow import Chain, Exact, Flow, residual_flow
from contraflow.architectures import real_nvp
from contraflow.distributions import BaseDistribution, StandardNormal, TorchDistribution
from contraflow.errors import ConfigurationError


def mixture() -> D.Distribution:
    parts = D.Independent(D.Normal(torch.tensor([[-1.0, 0.0], [2.0, 1.0]]), torch.ones(2, 2)), 1)
    return D.MixtureSameFamily(D.Categorical(probs=torch.tensor([0.3, 0.7])), parts)


BASES = {
    "uniform": lambda: D.Independent(D.Uniform(-2 * torch.ones(2), 3 * torch.ones(2)), 1),
    "Student's t": lambda: D.Independent(D.StudentT(30 * torch.ones(2)), 1),
    "normal": lambda: D.MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
    "exponential": lambda: D.Independent(D.Exponential(torch.ones(2)), 1),
    "beta": lambda: D.Independent(D.Beta(2 * torch.ones(2), 3 * torch.ones(2)), 1),
    "mixture": mixture,
    "log-normal": lambda: D.Independent(D.LogNormal(torch.zeros(2), torch.full((2,), 0.5)), 1),
    "transformed": lambda: D.TransformedDistribution(
        D.Independent(D.Normal(torch.zeros(2), torch.ones(2)), 1),
        [D.AffineTransform(1.0, torch.tensor([2.0, 0.5]), event_dim=1)],
    ),
}


def seeded() -> Generator:
    return Generator().manual_seed(0)


def flow_on(base: D.Distribution, **options: object) -> Flow:
    flow = Flow((2,), residual_flow((2,), blocks=2, hidden=(8,), logdet=Exact(), **options).bijection, base=base)
    flow.log_prob(1.5 * torch.randn(200, 2))
    return flow


@pytest.mark.parametrize("name", BASES)
def test_the_density_integrates_to_one(name: str) -> None:
    flow = flow_on(BASES[name]())
    axis = torch.linspace(-12, 12, 241)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.sum().item() * (24 / 240) ** 2 == pytest.approx(1, abs=0.04), "edges of a support cost half a cell"


@pytest.mark.parametrize("name", BASES)
def test_log_prob_and_samples_are_those_of_torch(name: str) -> None:
    theirs, ours = BASES[name](), Flow((2,), Chain([]), base=BASES[name]())
    x = theirs.sample((7,))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.manual_seed(3)
    expected = theirs.sample((4,))
    torch.manual_seed(3)
    assert torch.equal(ours.sample(4), expected)


@pytest.mark.parametrize("name", BASES)
def test_samples_follow_the_seed_without_the_global_generator(name: str) -> None:
    flow = flow_on(BASES[name]())
    state = torch.get_rng_state()
    first = flow.sample((3, 2), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, flow.sample((3, 2), generator=seeded()))
    assert not torch.equal(first, flow.sample((3, 2), generator=Generator().manual_seed(1)))
    assert bool(flow.log_prob(first).isfinite().all())


@pytest.mark.parametrize("name", BASES)
def test_dtype_copies_and_checkpoints(name: str) -> None:
    flow = flow_on(BASES[name]())
    x = flow.sample(5, generator=seeded())
    expected = flow.log_prob(x)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(twin.log_prob(x), expected)
    single = copy.deepcopy(flow).float()
    assert single.sample(2).dtype == single.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(single.log_prob(x).double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(single.double().log_prob(x), expected, atol=1e-4, rtol=1e-4)
    other = flow_on(BASES[name]())
    other.load_state_dict(flow.state_dict())
    torch.testing.assert_close(other.log_prob(x), expected)
    with pytest.raises(RuntimeError, match="base"):
        Flow((2,), copy.deepcopy(flow.bijection)).load_state_dict(flow.state_dict())


def test_loading_a_checkpoint_restores_the_parameters_of_the_base() -> None:
    """Also those that torch derives and caches, such as the logits of a mixture's weights."""
    flow, other = flow_on(mixture()), flow_on(mixture())
    x = torch.randn(5, 2)
    before = other.log_prob(x)
    state = flow.state_dict()
    state["base.part1_probs"].copy_(torch.tensor([0.9, 0.1]))
    state["base.part1__param"].copy_(torch.tensor([0.9, 0.1]))
    other.bijection.load_state_dict(flow.bijection.state_dict())
    other.base.load_state_dict({name[5:]: tensor for name, tensor in state.items() if name.startswith("base.")})
    assert not torch.allclose(other.log_prob(x), before)
    torch.testing.assert_close(other.log_prob(x), flow.log_prob(x))


def test_the_base_has_the_dtype_of_the_bijection_and_the_given_distribution_is_not_changed() -> None:
    end = torch.ones(2, dtype=torch.float32)
    base = D.Independent(D.Uniform(-end, end, validate_args=True), 1)
    flow = flow_on(base)
    assert flow.dtype == torch.float64
    assert flow.sample(1).dtype == torch.float64
    assert base.base_dist.low.dtype == torch.float32
    assert Flow((2,), copy.deepcopy(flow.bijection).float(), base=BASES["uniform"]()).dtype == torch.float32
    with pytest.raises(ValueError, match="support"):  # validation is switched off in the copy alone
        base.log_prob(torch.full((2,), 5.0, dtype=torch.float32))


def test_the_base_may_have_another_event_shape_than_the_data() -> None:
    images = real_nvp((1, 4, 4), levels=2, blocks=1, hidden=4)
    flow = Flow((1, 4, 4), images.bijection, base=D.Independent(D.Laplace(torch.zeros(16), torch.ones(16)), 1))
    flow.log_prob(torch.randn(8, 1, 4, 4))
    assert flow.log_prob(flow.sample(3)).shape == (3,)


def test_the_density_is_zero_outside_the_support() -> None:
    flow = Flow((1,), Chain([]), base=D.Independent(D.Exponential(torch.ones(1)), 1))
    assert flow.log_prob(torch.tensor([[-1.0], [2.0]])).tolist() == [-torch.inf, -2.0]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (D.Uniform(-torch.ones(2), torch.ones(2)), r"batch shape \(2,\).*Independent\(base, 1\)"),
        (D.Independent(D.Poisson(torch.ones(2)), 1), "discrete"),
        (D.OneHotCategorical(torch.ones(2)), "discrete"),
        (D.Dirichlet(torch.ones(2)), "surface"),
        (D.Wishart(torch.tensor(3.0), torch.eye(2)), "surface"),
        (D.Independent(D.VonMises(torch.zeros(2), torch.ones(2)), 1), "surface"),
        (D.Independent(D.Normal(torch.zeros(2, requires_grad=True), torch.ones(2)), 1), "require gradients"),
        (D.Independent(D.Normal(torch.zeros(3), torch.ones(3)), 1), r"shape \(3,\), but x has shape \(2,\)"),
        (StandardNormal((3,)), r"shape \(3,\), but x has shape \(2,\)"),
        ("normal", "'normal' is not a base distribution.*inherits from contraflow.distributions.BaseDistribution"),
        (StandardNormal, "is not a base distribution"),
        (nn.Linear(2, 2), "is not a base distribution"),
    ],
)
def test_a_base_without_a_density_on_the_latent_is_refused_at_construction(base: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Flow((2,), Chain([]), base=base)  # type: ignore[arg-type]


def test_only_a_gaussian_base_takes_a_temperature() -> None:
    flow = Flow((2,), Chain([]), base=BASES["uniform"]())
    with pytest.raises(ConfigurationError, match=r"temperature=0\.5.*Leave the temperature at 1"):
        flow.sample(3, temperature=0.5)


def test_the_bijection_is_trained_through_the_base() -> None:
    flow = flow_on(BASES["Student's t"]())
    flow.log_prob(torch.randn(6, 2)).sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert not list(TorchDistribution(BASES["normal"]()).parameters())


class Laplace(BaseDistribution):
    """A base as a user may write one."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = (2,)
        self.register_buffer("mean", torch.zeros(2))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return D.Laplace(self.mean, 1.0).log_prob(z).sum(1)

    def sample(self, n, context=None, *, temperature=1.0, generator=None) -> Tensor:
        return D.Laplace(self.mean, 1.0).sample((n,))


def test_a_custom_base_needs_only_the_abstract_methods() -> None:
    flow = Flow((2,), Chain([]), base=Laplace()).float()
    x = flow.sample(5)
    assert x.dtype == flow.dtype == torch.float32
    torch.testing.assert_close(flow.log_prob(x), D.Laplace(0.0, 1.0).log_prob(x).sum(1))
    with pytest.raises(TypeError, match="abstract"):
        BaseDistribution()  # type: ignore[abstract]
    del flow.base.mean
    with pytest.raises(ConfigurationError, match="Laplace has no parameter and no buffer"):
        flow.sample(5)
