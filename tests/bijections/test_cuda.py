"""On a GPU: the laws, the CPU's numbers in float64, an unbiased roulette, and a run of the command."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from test_bijection_laws import CASES, SMALL, samples, steep
from torch import Tensor

from contraflow import ARCHITECTURES, Exact, Flow, ResidualBlock, RussianRoulette
from contraflow.cli import main
from contraflow.lipschitz import LipschitzMLP, update_lipschitz
from contraflow.logdet import GRADIENTS
from contraflow.runs import load_run
from contraflow.testing import check_bijection

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def small(name: str, shape: tuple[int, ...]) -> Flow:
    architecture = ARCHITECTURES[name]
    if architecture.extra is not None:
        pytest.importorskip(architecture.extra, reason=f"the extra {architecture.extra} is not installed")
    return steep(architecture(shape, **architecture.small[shape]))


@pytest.mark.parametrize("name", CASES)
def test_every_bijection_satisfies_the_laws(name: str) -> None:
    make, shape = CASES[name]
    check_bijection(make().cuda(), samples(name, shape).cuda(), fresh=make)


@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_every_architecture_satisfies_the_laws(name: str, shape: tuple[int, ...]) -> None:
    def make() -> torch.nn.Module:
        return small(name, shape).bijection

    check_bijection(make().cuda(), torch.randn(3, *shape).cuda(), float32_atol=3e-3, fresh=make)


@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_log_prob_and_its_gradients_are_those_of_the_cpu(name: str, shape: tuple[int, ...]) -> None:
    here, x = small(name, shape).with_logdet(Exact()), torch.randn(3, *shape)
    with torch.no_grad():
        here.log_prob(x)  # data-dependent maps set themselves
    update_lipschitz(here)
    there = copy.deepcopy(here).cuda()
    for flow in (here, there):
        flow.log_prob(x.to(flow.device)).square().sum().backward()
    torch.testing.assert_close(there.log_prob(x.cuda()).cpu(), here.log_prob(x), rtol=1e-8, atol=1e-8)
    gradients = {key: parameter.grad for key, parameter in here.named_parameters()}
    for key, parameter in there.named_parameters():
        if gradients[key] is not None:
            torch.testing.assert_close(parameter.grad.cpu(), gradients[key], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("route", GRADIENTS)
def test_roulette_is_unbiased(route: str) -> None:
    """40,000 draws at one point; mean value and mean gradient in x within 4.5 standard errors, four numbers: a false
    alarm in 36,000 runs."""
    block = ResidualBlock(steep(LipschitzMLP(3, (8, 8), bound=0.9)), RussianRoulette(stratified=False), gradient=route)
    block, x = block.cuda(), torch.randn(1, 3).cuda()

    def logdet_and_gradient(block: ResidualBlock, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        logdet = block.forward_and_logdet(x, generator=torch.Generator("cuda").manual_seed(1))[1]
        return torch.cat([logdet[:, None], *torch.autograd.grad(logdet.sum(), x)], dim=1).detach()

    draws = logdet_and_gradient(block, x.expand(40_000, 3))
    exact = copy.deepcopy(block)
    exact.adopt(Exact())
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert (error > 0).all()
    assert ((draws.mean(dim=0) - logdet_and_gradient(exact, x)[0]).abs() < 4.5 * error).all()


def test_a_run_trained_on_a_gpu_is_read_on_a_cpu(tmp_path: Path) -> None:
    tiny = ["architecture.options.blocks=[1,1]", "architecture.options.hidden=8", "training.steps=20"]
    tiny += ["training.warmup_steps=2", "data.limit=200", "evaluation.limit=20", "evaluation.draws=1", "device=cuda"]
    torch.set_default_dtype(torch.float32)
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *tiny]) == 0
    assert main(["sample", str(tmp_path / "run"), "--device", "cuda", "--out", str(tmp_path / "a.png")]) == 0
    flows = [load_run(tmp_path / "run", device=device).flow.double() for device in ("cpu", "cuda")]
    images = torch.full((5, *flows[0].event_shape), 7.5, dtype=torch.float64)
    here, there = (flow.with_logdet(Exact()).bijection(images.to(flow.device)).cpu() for flow in flows)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)  # float32 weights, normalised where they were loaded
