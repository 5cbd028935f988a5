"""Flow matching: its minimum in closed form, its direction, training without a solve, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from contraflow import Exact, Flow, residual_flow
from contraflow.architectures import ffjord
from contraflow.bijections import ActNorm, Chain, ContinuousFlow, training_solves
from contraflow.data import load_dataset
from contraflow.errors import ConfigurationError
from contraflow.logdet import ExactDivergence
from contraflow.numerics import OdeSolver
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import Recipe
from contraflow.training import FlowMatching, TrainingSettings, TrainingState, train
from contraflow.training.flow_matching import matching_error
from contraflow.training.objective import Batch


class GaussianField(nn.Module):
    """Of K in a row, the k-th part of the field that takes N(0, σ²) to N(0, 1): E[z - x | (1-t)x + tz = y], times
    `factor`."""

    def __init__(self, sigma: float, part: int = 0, parts: int = 1, factor: float = 1.0) -> None:
        super().__init__()
        self.sigma, self.part, self.parts = sigma, part, parts
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = (self.part + t) / self.parts
        variance = ((1 - t) * self.sigma) ** 2 + t**2
        return self.factor * (t - (1 - t) * self.sigma**2) / variance * y / self.parts


def gaussian_flow(sigma: float, parts: int = 1, factor: float = 1.0) -> Flow:
    solver = OdeSolver(tolerance=1e-9)
    fields = [GaussianField(sigma, part, parts, factor) for part in range(parts)]
    return Flow((2,), Chain(ContinuousFlow(field, ExactDivergence(), solver) for field in fields))


def flows(flow: Flow) -> list[ContinuousFlow]:
    return [one for one in flow.modules() if isinstance(one, ContinuousFlow)]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_exact_field_of_a_gaussian_has_the_smallest_loss(sigma, parts):
    """min E‖f - (z - x)‖²/D = ∫ σ²/((1-t)²σ² + t²) dt = πσ/2, with gradient zero.

    z-tests at a false-alarm rate of 1e-5 each.
    """
    generator = Generator().manual_seed(0)
    n = 200_000
    x, z = sigma * torch.randn(n, 2, generator=generator), torch.randn(n, 2, generator=generator)
    t = torch.rand(n, generator=generator)
    found = flows(gaussian_flow(sigma, parts))
    factors = [one.field.factor for one in found]
    errors = matching_error(found, x, z, t)
    spread = errors.std() / math.sqrt(n)
    assert abs(errors.mean() - math.pi * sigma / 2) < 4.42 * spread
    slopes = torch.stack(torch.autograd.grad(errors.mean(), factors))
    # f is linear in its factor: ∂E‖f - v‖²/∂factor = 2 E⟨f, f - v⟩, whose terms have at most this size.
    assert (slopes.abs() < 4.42 * 4 * errors.std() * max(1, sigma) / math.sqrt(n)).all()
    for factor in (0.8, 1.2):
        assert matching_error(flows(gaussian_flow(sigma, parts, factor)), x, z, t).mean() > errors.mean() + 5 * spread


@pytest.mark.parametrize("parts", [1, 3])
def test_that_field_is_the_density_in_the_direction_of_flows(parts):
    """The field that is matched from data at t = 0 to the base at t = 1 gives the data's own log p(x) when solved."""
    sigma, x = 1.7, torch.randn(30, 2)
    truth = torch.distributions.Normal(0.0, sigma).log_prob(x).sum(1)
    torch.testing.assert_close(gaussian_flow(sigma, parts).log_prob(x), truth, rtol=1e-5, atol=1e-5)


def test_the_objective_is_the_matching_error_of_preprocessed_rows():
    """Of images too: noise, logit and one level; the same seed gives the same loss, and no equation is solved."""
    flow = ffjord((1, 4, 4), hidden=(8,), levels=1, preprocessing=ImagePreprocessing(17))
    rows = torch.randint(0, 17, (16, 1, 4, 4), dtype=torch.uint8)
    objective = FlowMatching()
    objective.check(flow, None)
    with training_solves(flow) as solves:
        terms = objective.terms(flow, Batch(rows), Generator().manual_seed(3))
    assert not solves
    generator = Generator().manual_seed(3)
    x = flow.preprocessing(rows.float(), generator=generator)
    z = flow.base.sample(16, generator=generator).reshape(x.shape)
    t = ((torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(16) / 16) % 1).to(x.dtype)
    field = flows(flow)[0].field
    by_hand = torch.stack(
        [(field(s, ((1 - s) * a + s * b)[None])[0] - (b - a)).square().mean() for a, b, s in zip(x, z, t, strict=True)]
    )
    torch.testing.assert_close(terms.loss, by_hand.mean())
    assert terms.values == {"matching_error": terms.loss.item()}
    terms.loss.backward()
    assert all(one.grad is not None for one in field.parameters())


@pytest.mark.parametrize(("name", "reached"), [("gaussian", -3.3), ("moons", -3.05)])
def test_two_hundred_steps_learn_a_density(name, reached):
    """A tilted Gaussian, whose entropy is 3.24 nats, and two moons, to which a Gaussian has -3.40 nats."""
    torch.manual_seed(0)
    if name == "gaussian":
        data = torch.randn(2000, 2) @ torch.tensor([[1.5, 0.0], [1.0, 1.0]]).T
    else:
        data = load_dataset("moons", seed=0).train[:5000].double()
    flow = ffjord((2,), hidden=(32, 32), divergence="exact", activation="silu", tolerance=1e-4)
    settings = TrainingSettings(
        steps=200, batch_size=256, learning_rate=3e-2, warmup_steps=10, schedule="cosine", polyak=0.0
    )
    state = TrainingState.begin(flow, settings, seed=0)
    records = list(train(state, data, settings, FlowMatching()))
    assert all(record.evaluations == 0 for record in records)
    scores = FlowMatching().validate(
        flow, data[:500], None, estimator=Exact(), batch_size=500, generator=Generator().manual_seed(0)
    )
    assert scores["log_prob"] > reached
    assert FlowMatching().value(flow, scores) == scores["log_prob"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: residual_flow((2,), blocks=1, hidden=(4,)),
            r"made of vector fields alone, and this flow has a ActNorm",
        ),
        (lambda: ffjord((1, 4, 4), hidden=(4,), levels=2), r"has a MultiScale.*levels=1 for images"),
        (lambda: Flow((2,), Chain([])), "the flow is empty"),
        (lambda: ffjord((2,), hidden=(4,), kinetic_weight=0.01), "kinetic_weight and jacobian_weight.*set both to 0"),
        (lambda: ffjord((2,), hidden=(4,), preprocessing=ActNorm(2)), r"preprocessing\.shift is outside of them"),
    ],
)
def test_flows_without_a_vector_field_are_refused(make, match):
    with pytest.raises(ConfigurationError, match=match):
        FlowMatching().check(make(), None)


def test_recipes_name_it():
    recipe = Recipe().changed({"objective": {"kind": "flow_matching"}})
    assert recipe.objective == FlowMatching()
    assert Recipe.from_dict(recipe.as_dict()) == recipe
