"""Contexts: refused by flows that take none, and checked like x by conditional flows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from contraflow import Chain, Exact, Flow, hybrid, residual_flow
from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import ActNorm, Coupling, halves
from contraflow.errors import ConfigurationError, ContraflowError, DomainError, ShapeError
from contraflow.nets import MLP

CONDITIONAL = ("nice", "real_nvp", "glow")


def seeded() -> Generator:
    return Generator().manual_seed(0)


def conditional(name: str = "real_nvp", features: int = 3) -> Flow:
    """A conditional flow in two dimensions that is not the identity."""
    sizes = {"hidden": (16, 16)} if name == "nice" else {"hidden": 16, "levels": 1}
    flow = ARCHITECTURES[name]((2,), context_features=features, **sizes)
    flow.log_prob(torch.randn(50, 2), torch.randn(50, features))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


USES = {
    "log_prob": lambda flow, x, c: flow.log_prob(x, c, generator=seeded()),
    "forward": lambda flow, x, c: flow(x, c),
    "forward_and_logdet": lambda flow, x, c: flow.forward_and_logdet(x, c)[0],
    "inverse": lambda flow, x, c: flow.inverse(x, c),
    "invert": lambda flow, x, c: flow.invert(x, c).value,
    "sample": lambda flow, x, c: flow.sample(len(x), c, generator=seeded()),
    "rsample": lambda flow, x, c: flow.rsample(len(x), c, generator=seeded()),
    "bits_per_dim": lambda flow, x, c: flow.bits_per_dim(x, c),
    "log_prob_estimate": lambda flow, x, c: flow.log_prob_estimate(x, c, probes=1).value,
}


@pytest.mark.parametrize("use", USES)
def test_a_flow_that_takes_no_context_refuses_one(use: str) -> None:
    flow = residual_flow((2,), blocks=1, hidden=(4,), actnorm=False)
    with pytest.raises(ConfigurationError, match=r"context of shape \(5, 3\).*takes none.*context_features"):
        USES[use](flow, torch.randn(5, 2), torch.randn(5, 3))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_uses_a_context_or_refuses_it(name: str) -> None:
    shape, options = next(iter(ARCHITECTURES[name].small.items()), (None, {}))
    if shape is None:
        pytest.skip("the same function as another name, in another size")
    flow = ARCHITECTURES[name](shape, **options)
    assert flow.context_shape is None
    with pytest.raises(ContraflowError):
        flow.log_prob(torch.zeros(5, *shape), torch.randn(5, 3))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", CONDITIONAL)
def test_rows_of_a_batch_have_their_own_context(name: str, use: str) -> None:
    """Each row alone with its context gives what the batch gives; another context gives another number."""
    flow, x, context = conditional(name), torch.randn(5, 2), torch.randn(5, 3)
    together = USES[use](flow, x, context)
    if "sample" not in use:
        alone = torch.cat([USES[use](flow, x[i : i + 1], context[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(together, alone)
    assert bool((together != USES[use](flow, x, context.flip(0)))[:2].any())


@pytest.mark.parametrize("use", USES)
def test_one_row_of_context_serves_all_samples(use: str) -> None:
    flow, x, context = conditional(), torch.randn(5, 2), torch.randn(3)
    expected = USES[use](flow, x, context.expand(5, 3))
    for one in (context, context[None]):
        torch.testing.assert_close(USES[use](flow, x, one), expected)


def test_the_conditional_density_integrates_to_one() -> None:
    flow, axis = conditional("glow"), torch.linspace(-30, 30, 201)
    for context in torch.randn(2, 3):
        with torch.no_grad():
            density = flow.log_prob(torch.cartesian_prod(axis, axis), context).exp()
        assert density.sum().item() * (60 / 200) ** 2 == pytest.approx(1, abs=1e-3)


BAD: dict[str, tuple[object, type[ContraflowError], str]] = {
    "missing": (None, ShapeError, r"needs a context of shape \(batch, 3\), and none"),
    "width": (torch.zeros(5, 4), ShapeError, r"takes a context of shape \(batch, 3\), not \(5, 4\)"),
    "rows": (torch.zeros(4, 3), ShapeError, r"batch shape \(4,\) and the samples have batch shape \(5,\)"),
    "no rows": (torch.zeros(0, 3), ShapeError, r"batch shape \(0,\)"),
    "list": ([[0.0] * 3] * 5, ShapeError, "takes a context .* not a list"),
    "nan": (torch.tensor([[0.0, 0, 0]] * 4 + [[0, math.nan, 0]]), DomainError, "NaN or infinity in sample 4 of the co"),
    "half": (torch.zeros(5, 3, dtype=torch.float16), DomainError, r"a context of dtype torch\.float16"),
    "bool": (torch.zeros(5, 3, dtype=torch.bool), DomainError, r"a context of dtype torch\.bool"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", BAD)
def test_a_context_is_checked_as_x_is(case: str, use: str) -> None:
    context, error, message = BAD[case]
    flow = conditional()
    with pytest.raises(error, match=message):
        USES[use](flow, torch.randn(5, 2), context)


def test_a_context_of_any_dtype_is_computed_in_that_of_the_flow() -> None:
    flow, x = conditional(), torch.randn(4, 2)
    whole = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 2, 2]])
    expected = flow.log_prob(x, whole.double())
    for dtype in (torch.uint8, torch.int64, torch.float32):
        torch.testing.assert_close(flow.log_prob(x, whole.to(dtype)), expected)


def test_a_custom_flow_declares_the_shape_of_its_context() -> None:
    parts = halves(2)
    body = Chain([ActNorm(2), Coupling(parts, MLP(parts.seen, 2 * parts.changed, (8,), context_features=1))])
    x, context = torch.randn(5, 2), torch.randn(5, 1)
    flow = Flow((2,), body, context_shape=(1,))
    assert flow.log_prob(x, context).shape == (5,)
    assert flow.with_logdet(Exact()).context_shape == (1,)
    with pytest.raises(ConfigurationError, match="context_shape"):
        Flow((2,), body).log_prob(x, context)
    with pytest.raises(ConfigurationError, match="context_features=-1"):
        conditional(features=-1)


@pytest.mark.parametrize("classifier", ["branches", "base"])
def test_only_classifiers_accept_labels(classifier: str) -> None:
    """Where labels have a meaning they are taken, one for all or one each; elsewhere they are refused."""
    options = {"blocks": (1,), "hidden": 4, "branch_features": 4, "classes": 3}
    flow = hybrid((2,), classifier=classifier, **options).with_logdet(Exact())
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, -1])
    flow.log_prob(x)
    for refusing in (flow.forward, flow.inverse, flow.forward_and_logdet, flow.invert):
        with pytest.raises(ConfigurationError, match="takes none"):
            refusing(x, y)  # type: ignore[operator]
    expected = flow.log_prob(x, y)
    torch.testing.assert_close(flow.log_prob(x.reshape(2, 3, 2), y.reshape(2, 3)), expected.reshape(2, 3))
    torch.testing.assert_close(flow.log_prob(x, torch.tensor(1)), flow.log_prob(x, torch.full((6,), 1)))
    torch.testing.assert_close(flow.log_prob_estimate(x, y, probes=1, estimator=Exact()).value, expected.detach())
    drawn: list[Tensor] = [flow.sample(4, one, generator=seeded()) for one in (torch.tensor(1), torch.full((4,), 1))]
    assert torch.equal(*drawn)
    assert flow.sample((2, 3), y.clamp(min=0).reshape(2, 3)).shape == (2, 3, 2)
    for labels in (1, torch.tensor([0, 1]), torch.tensor([[0] * 6])):
        with pytest.raises(ShapeError, match="labels of"):
            flow.log_prob(x, labels)  # type: ignore[arg-type]
