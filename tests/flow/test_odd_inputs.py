"""Unusual inputs: half precision, subnormal and huge values, constant columns, one sample, no sample."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Generator, Tensor

from contraflow import EVALUATION, Chain, Exact, Flow, rescale_to_certificate, residual_flow, update_lipschitz
from contraflow.bijections import ActNorm
from contraflow.errors import ConfigurationError, DomainError, ShapeError
from contraflow.evaluation import score
from contraflow.lipschitz import LipschitzMLP
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing


def flow_in(dtype: torch.dtype) -> Flow:
    torch.manual_seed(0)
    flow = residual_flow((2,), blocks=2, hidden=(8,)).to(dtype)
    flow.log_prob(torch.randn(100, 2, dtype=dtype))  # ActNorm takes its first batch
    return flow.with_logdet(Exact())


USES = {
    "log_prob": lambda flow, x: flow.log_prob(x),
    "forward": lambda flow, x: flow(x),
    "inverse": lambda flow, x: flow.inverse(x),
    "log_prob_estimate": lambda flow, x: flow.log_prob_estimate(x, probes=1),
    "bits_per_dim": lambda flow, x: flow.bits_per_dim(x),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(half: torch.dtype, use: str) -> None:
    flow = flow_in(torch.float32)
    with pytest.raises(DomainError, match=rf"dtype {half}.*x\.float\(\)"):
        USES[use](flow, torch.zeros(3, 2, dtype=half))
    with pytest.raises(DomainError, match=rf"weights of this flow are {half}.*flow\.float\(\)"):
        USES[use](copy.deepcopy(flow).to(half), torch.zeros(3, 2, dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(DomainError, match="autocast"):
        USES[use](flow, torch.zeros(3, 2, dtype=torch.float32))


def test_samples_of_half_precision_weights_are_refused() -> None:
    with pytest.raises(DomainError, match=r"weights of this flow are torch\.bfloat16"):
        flow_in(torch.float32).bfloat16().sample(2)


def network(flow: Flow) -> LipschitzMLP:
    return next(module for module in flow.modules() if isinstance(module, LipschitzMLP))


BOUNDS = {
    "certify": lambda flow: flow.certify(),
    "update_lipschitz": update_lipschitz,
    "rescale_to_certificate": rescale_to_certificate,
    "g": lambda flow: network(flow)(torch.zeros(1, 2)),
    "lipschitz_bound": lambda flow: network(flow).lipschitz_bound(),
}


@pytest.mark.parametrize("use", BOUNDS)
def test_certificates_are_refused_in_half_precision(use: str) -> None:
    """Under autocast norms were estimated in half precision: a certificate then lay below the norm of what was used."""
    torch.set_default_dtype(torch.float32)
    flow = flow_in(torch.float32)
    flow.certify()  # known bounds are no way around
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(DomainError, match=f"weights of this flow are {half}"):
            BOUNDS[use](copy.deepcopy(flow).to(half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(DomainError, match="autocast"):
            BOUNDS[use](flow)
        with torch.autocast("cpu", enabled=False):
            BOUNDS[use](flow)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_named(bad: float, use: str) -> None:
    x = torch.zeros(9, 2, dtype=torch.float32)
    x[1, 0] = x[4:, 1] = bad
    with pytest.raises(DomainError, match="NaN or infinity in samples 1, 4, 5, 6, 7 and 1 more"):
        USES[use](flow_in(torch.float32), x)


@pytest.mark.parametrize("use", USES)
def test_values_beyond_the_range_of_float32_are_refused(use: str) -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    x[1, 1] = 1e39
    with pytest.raises(DomainError, match=r"beyond the range of torch\.float32 in sample 1\..*flow\.double"):
        USES[use](flow_in(torch.float32), x)


@pytest.mark.parametrize("value", [1e30, -1e30, 1e18, 5e-324, 1e-310, 1e-40, 0.0])
def test_extreme_values_in_float64(value: float) -> None:
    """Against the dense Jacobian: log p = log N(f(x)) + log|det J|, with f and J by autograd."""
    flow = flow_in(torch.float64)
    x = torch.tensor([[value, -value], [0.0, value]], dtype=torch.float64)
    for row, log_prob in zip(x, flow.log_prob(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0], row)
        expected = flow.base.log_prob(flow(row[None]))[0] + torch.linalg.slogdet(jacobian)[1]
        assert math.isfinite(log_prob.item())
        assert log_prob.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("value", [1e30, -1e30, 1e18, 1e-45, 1e-40])
def test_extreme_values_in_float32_agree_with_float64(value: float) -> None:
    flow = flow_in(torch.float32)
    x = torch.tensor([[value, -value], [0.0, value]], dtype=torch.float32)
    expected = copy.deepcopy(flow).double().log_prob(x.double())
    within = expected > -torch.finfo(torch.float32).max
    log_prob = flow.log_prob(x).double()
    assert torch.allclose(log_prob[within], expected[within], rtol=1e-5)
    assert bool((log_prob[~within] == -math.inf).all())


def test_an_intermediate_overflow_is_refused() -> None:
    table = TablePreprocessing(torch.zeros(2, dtype=torch.float32), torch.full((2,), 1e-30, dtype=torch.float32))
    torch.manual_seed(0)
    flow = Flow((2,), residual_flow((2,), blocks=2, hidden=(8,)).bijection, preprocessing=table).float()
    flow.log_prob(1e-30 * torch.randn(50, 2, dtype=torch.float32))
    x = torch.zeros(450, 2, dtype=torch.float32)
    x[401] = 1e30
    with pytest.raises(DomainError, match="sample 401 is NaN"):
        flow.log_prob_estimate(x, probes=2)
    with pytest.raises(DomainError, match=r"rows 400 to 449, numbered from 400: .*sample 1 is NaN"):
        score(flow, x, batch_size=200)
    assert flow.double().log_prob_estimate(x[400:402], probes=1).value.isfinite().all()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("fresh", [True, False])
def test_batches_of_zero_and_one_samples(rows: int, fresh: bool) -> None:
    flow = residual_flow((2,), blocks=2, hidden=(8,)) if fresh else flow_in(torch.float64)
    x = torch.randn(rows, 2)
    assert flow.log_prob(x).shape == (rows,)
    assert bool(flow.log_prob(x).isfinite().all())
    assert flow.inverse(flow(x)).shape == (rows, 2)
    torch.testing.assert_close(flow.inverse(flow(x)), x, atol=1e-8, rtol=0)
    estimate = flow.log_prob_estimate(x, target_error=0.5)
    assert estimate.value.shape == estimate.reached.shape == (rows,)
    assert flow.sample(rows).shape == flow.rsample(rows).shape == (rows, 2)
    assert score(flow, x, draws=2).log_prob.shape == (rows,)
    ready = {bool(module.initialised) for module in flow.modules() if isinstance(module, ActNorm)}
    assert ready == {rows > 0 or not fresh}, "an empty batch initialises nothing"


def test_a_single_sample_gives_the_same_result_as_in_a_batch() -> None:
    flow = flow_in(torch.float64)
    x = torch.randn(5, 2)
    torch.testing.assert_close(torch.cat([flow.log_prob(row[None]) for row in x]), flow.log_prob(x))


@pytest.mark.parametrize(("n", "temperature"), [(-1, 1.0), (2, -0.5), (2, math.nan), (2, math.inf)])
def test_samples_that_cannot_be_drawn(n: int, temperature: float) -> None:
    with pytest.raises(ConfigurationError, match=f"n={n}, temperature={temperature}"):
        flow_in(torch.float64).sample(n, temperature=temperature)


def test_an_empty_batch_of_images() -> None:
    flow = Flow((1, 4, 4), Chain([ActNorm(1)]), preprocessing=ImagePreprocessing(16))
    assert flow.log_prob(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)).shape == (0,)
    assert flow.sample(0).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("x", [[[0.0, 0.0]], None, 1.0, torch.tensor(1.0)])
def test_an_invalid_batch_is_refused(x: object) -> None:
    with pytest.raises(ShapeError, match=r"shape \(batch, 2\)"):
        flow_in(torch.float64).log_prob(x)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_first_batch_of_any_size_leaves_finite_scales(scale: float, dtype: torch.dtype) -> None:
    norm = ActNorm(2).to(dtype)
    x = scale * torch.randn(50, 2, dtype=dtype)
    z, logdet = norm.forward_and_logdet(x)
    assert bool(z.isfinite().all() & logdet.isfinite().all())
    if scale > 1e-38 or dtype == torch.float64:
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(2, dtype=dtype), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.inverse(z), x, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]], "train has one row"),
        ([[1.0, 2.0], [2.0, 2.0]], "column 1 is constant"),
        ([[1.0, 1.7e308], [2.0, 1.6e308]], "column 1 has mean inf"),
        ([[1.0, 0.0], [2.0, 5e-324]], "column 1.*std"),
    ],
)
def test_a_table_that_cannot_be_standardised(rows: list[list[float]], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        TablePreprocessing.fit(torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e-30, torch.float32), (1e30, torch.float32), (1e-300, torch.float64), (1e300, torch.float64)]
)
def test_a_table_of_any_unit_is_standardised(scale: float, dtype: torch.dtype) -> None:
    x = scale * torch.randn(100, 2, dtype=dtype)
    z, logdet = TablePreprocessing.fit(x).forward_and_logdet(x)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2, dtype=dtype), rtol=1e-4, atol=0)
    expected = -((x.double() / scale).std(0, correction=0).log() + math.log(scale)).sum().item()
    assert logdet[0].item() == pytest.approx(expected, rel=1e-5)


def test_draws_do_not_depend_on_the_number_of_threads() -> None:
    """Threads may round otherwise, to 1e-4 here; another draw of the noise would differ by tenths."""
    torch.manual_seed(0)
    flow = residual_flow((64,), blocks=2, hidden=(128,)).float()
    x = torch.randn(100, 64, dtype=torch.float32)
    flow.log_prob(x)
    results: list[Tensor] = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            generator = Generator().manual_seed(7)
            results.append(score(flow, x, draws=2, batch_size=50, generator=generator, estimator=EVALUATION).log_prob)
            results[-1] = torch.cat([results[-1], torch.rand(1, generator=generator).double()])
        finally:
            torch.set_num_threads(1)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-3, rtol=1e-5)
    other = score(flow, x, draws=2, batch_size=50, generator=Generator().manual_seed(8)).log_prob
    assert (other - results[0][:-1]).abs().median() > 0.01, "the test can tell another draw"


def test_results_without_noise_do_not_depend_on_the_batch_size() -> None:
    flow = flow_in(torch.float64)
    x = torch.randn(37, 2)
    whole = score(flow, x, estimator=Exact()).log_prob
    for size in (1, 5, 36, 37):
        torch.testing.assert_close(score(flow, x, estimator=Exact(), batch_size=size).log_prob, whole)
