"""Batches of any shape, and sample shapes, as in torch.distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from contraflow import Chain, Exact, Flow, hybrid, residual_flow
from contraflow.architectures import maf, real_nvp
from contraflow.errors import ConfigurationError, DomainError, ShapeError
from contraflow.preprocessing import ImagePreprocessing


def seeded() -> Generator:
    return Generator().manual_seed(0)


def flow_of(shape: tuple[int, ...]) -> Flow:
    """Vectors; or images, whose latent has another shape."""
    if len(shape) == 1:
        flow = residual_flow(shape, blocks=2, hidden=(8,), logdet=Exact())
    else:
        flow = real_nvp(shape, levels=2, blocks=1, hidden=4)
    flow.log_prob(torch.randn(40, *shape))
    return flow


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (1, 6), (6, 1), (2, 0), (2, 1, 3)])
def test_results_do_not_depend_on_the_batch_shape(batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    flow, rows = flow_of(shape), torch.randn(torch.Size(batch).numel(), *shape)
    x = rows.reshape(*batch, *shape)
    torch.testing.assert_close(flow.log_prob(x), flow.log_prob(rows).reshape(batch))
    torch.testing.assert_close(flow.bits_per_dim(x), flow.bits_per_dim(rows).reshape(batch))
    z, logdet = flow.forward_and_logdet(x)
    latent = flow.base.event_shape
    torch.testing.assert_close(z, flow(rows).reshape(*batch, *latent))
    torch.testing.assert_close(z, flow(x))
    torch.testing.assert_close(logdet, flow.forward_and_logdet(rows)[1].reshape(batch))
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-8, rtol=0)
    solution = flow.invert(z)
    assert solution.value.shape == x.shape
    assert solution.error_bound.shape == batch
    estimate = flow.log_prob_estimate(x, probes=2, estimator=Exact())
    torch.testing.assert_close(estimate.value, flow.log_prob(x).detach())
    assert {tensor.shape for tensor in (estimate.standard_error, estimate.probes, estimate.reached)} == {
        torch.Size(batch)
    }


def test_batch_shapes_are_those_of_torch_distributions() -> None:
    """The Flow without a bijection is the base: the same shapes and numbers as torch's."""
    ours = Flow((3,), Chain([]))
    theirs = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    for batch in ((), (4,), (2, 4)):
        x = torch.randn(*batch, 3)
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
        assert ours.sample(batch).shape == theirs.sample(batch).shape
    assert ours.sample().shape == theirs.sample().shape


def test_vmap_over_single_samples() -> None:
    flow, x = real_nvp((3,), levels=1, hidden=4), torch.randn(5, 3, requires_grad=True)
    with pytest.raises(DomainError, match="ActNorm has seen no batch yet"):
        torch.func.vmap(flow.log_prob)(x)
    flow.log_prob(x)
    torch.testing.assert_close(torch.func.vmap(flow.log_prob)(x), flow.log_prob(x))
    scores = torch.func.vmap(torch.func.grad(flow.log_prob))(x)
    torch.testing.assert_close(scores, torch.autograd.grad(flow.log_prob(x).sum(), x)[0])


def test_an_image_batch_keeps_its_levels() -> None:
    flow = Flow((1, 4, 4), Chain([]), preprocessing=ImagePreprocessing(16))
    rows = torch.randint(0, 16, (6, 1, 4, 4), dtype=torch.uint8)
    flat = flow.log_prob(rows, generator=seeded())
    torch.testing.assert_close(flow.log_prob(rows.reshape(2, 3, 1, 4, 4), generator=seeded()), flat.reshape(2, 3))
    drawn = flow.sample((2, 3), generator=seeded())
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, flow.sample(6, generator=seeded()).reshape(2, 3, 1, 4, 4))


@pytest.mark.parametrize("classifier", ["branches", "base"])
def test_a_classifier_takes_batches_of_any_shape(classifier: str) -> None:
    flow = hybrid((3,), classifier=classifier, blocks=(1,), hidden=4, branch_features=4, classes=2, logdet=Exact())
    rows = torch.randn(6, 3)
    log_prob, logits = flow.log_prob_and_logits(rows)
    for batch in ((), (2, 3)):
        x = rows[: torch.Size(batch).numel()].reshape(*batch, 3)
        results = flow.log_prob_and_logits(x)
        torch.testing.assert_close(results[0], log_prob[: len(x.reshape(-1, 3))].reshape(batch))
        torch.testing.assert_close(results[1], logits[: len(x.reshape(-1, 3))].reshape(*batch, 2))
        torch.testing.assert_close(flow.class_logits(x), results[1])
        assert flow.log_prob_estimate(x, probes=1).class_probabilities.shape == (*batch, 2)


@pytest.mark.parametrize(
    ("n", "batch"),
    [
        (5, (5,)),
        ((5,), (5,)),
        ([5], (5,)),
        (torch.Size([5]), (5,)),
        (np.int64(5), (5,)),
        (torch.tensor(5), (5,)),
        ((2, 3), (2, 3)),
        ((2, 0), (2, 0)),
        ((), ()),
        (0, (0,)),
    ],
)
def test_numbers_and_shapes_of_samples(n: object, batch: tuple[int, ...]) -> None:
    flow = flow_of((2,))
    for draw in (flow.sample, flow.rsample):
        drawn = draw(n, generator=seeded())  # type: ignore[arg-type]
        flat = draw(torch.Size(batch).numel(), generator=seeded())
        torch.testing.assert_close(drawn, flat.reshape(*batch, 2))
    assert flow.sample().shape == flow.rsample().shape == (2,)


@pytest.mark.parametrize("n", [5.0, (2, 3.0), "5", None, torch.tensor(5.0), (-1,), (2, -3)])
def test_an_invalid_number_of_samples_is_refused(n: object) -> None:
    for draw in (flow_of((2,)).sample, flow_of((2,)).rsample):
        with pytest.raises(ConfigurationError, match="n="):
            draw(n)  # type: ignore[arg-type]


def test_an_input_of_another_event_shape_is_refused() -> None:
    flow = maf((3,))
    for x in (torch.zeros(4, 2), torch.zeros(3, 4), torch.zeros(()), np.zeros((4, 3)), [[0.0, 0, 0]]):
        with pytest.raises(ShapeError, match=r"shape \(batch, 3\), not .*any number of dimensions"):
            flow.log_prob(x)  # type: ignore[arg-type]
    x = torch.zeros(2, 3, 3)
    x[1, 2] = torch.nan
    with pytest.raises(DomainError, match="sample 5"):
        flow.log_prob(x)
