"""Variational dequantisation: q(u|x) is the density of the noise, gives a lower bound on log P, and is saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contraflow.bijections import Chain
from contraflow.cli import main
from contraflow.data import Dataset
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import evaluate_likelihood
from contraflow.flow import Flow
from contraflow.numerics import batch_jacobian
from contraflow.preprocessing import ImagePreprocessing, VariationalDequantisation, preprocessing_from_config
from contraflow.runs import RECIPES, load_run
from contraflow.runs.build import make_preprocessing

SHORT = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=8",
    "architecture.options.dense_blocks=0",
    "training.steps=3",
    "training.warmup_steps=0",
    "training.batch_size=16",
    "training.validate_every=3",
    "training.validation_size=20",
    "evaluation.limit=30",
    "evaluation.samples=4",
    "evaluation.draws=1",
]
#: z for a two-sided false alarm of 6e-5 a test.
Z = 4.0


def perturbed(channels: int = 1, scale: float = 0.4) -> VariationalDequantisation:
    """A network whose last layers are not zero, so that q is far from uniform and depends on x."""
    torch.manual_seed(1)
    noise = VariationalDequantisation(channels, hidden=8).double()
    with torch.no_grad():
        for net in noise.nets:
            net[-1].weight.normal_(0, scale)
            net[-1].bias.normal_(0, scale)
    return noise


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_noise_is_uniform_at_initialisation():
    x = torch.rand(50, 2, 4, 4, dtype=torch.float64)
    u, log_q = VariationalDequantisation(2).double()(x, seeded())
    assert torch.equal(u, u.clamp(0, 1))
    torch.testing.assert_close(u, torch.rand(x.shape, dtype=torch.float64, generator=seeded()))
    assert log_q.abs().max() < 1e-9


def test_log_q_is_log_density_of_the_dense_jacobian():
    """log q(u|x) = log p(ε) - log|det ∂u/∂ε|, the determinant of the autograd Jacobian, with ε from the same seed."""
    noise = perturbed(2)
    x = torch.rand(4, 2, 3, 3, dtype=torch.float64)
    u, log_q = noise(x, seeded())
    epsilon = torch.rand(x.shape, dtype=torch.float64, generator=seeded()).logit()
    jacobian = batch_jacobian(lambda epsilon: torch.sigmoid(noise.transform(epsilon, x)[0]), epsilon)
    base = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros_like(x), torch.ones_like(x)),
        [torch.distributions.SigmoidTransform().inv],
    )
    expected = base.log_prob(epsilon).flatten(1).sum(1) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(log_q, expected, rtol=1e-9, atol=1e-9)
    assert log_q.abs().min() > 0.1
    assert ((u > 0) & (u < 1)).all()


def test_one_over_q_integrates_to_the_volume_of_the_cube():
    """E_q[1/q(u|x)] = 1: a z-test with a false alarm of 6e-5."""
    _, log_q = perturbed(scale=0.2)(torch.full((20_000, 1, 2, 2), 0.25, dtype=torch.float64), seeded())
    ratio = (-log_q).exp()
    assert abs(ratio.mean() - 1) < Z * ratio.std() / math.sqrt(len(ratio))
    assert ratio.std() > 0.1


class Bump(torch.nn.Module):
    """p(y) ∝ exp(-3 (frac(y) - c)²) over [0, 4) for single pixels, more likely at higher levels."""

    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    def log_prob(self, y: Tensor) -> Tensor:
        level = y.floor().clamp(0, 3).long()
        return self.weights[level].log() - 20 * (y - level - 0.2 * (level + 1)).square()

    def log_mass(self, level: int) -> Tensor:
        """log P(level) by the midpoint rule."""
        u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        return self.log_prob(level + u).exp().mean().log()


def elbo(noise: VariationalDequantisation, density: Bump, n: int, seed: int) -> Tensor:
    """log p(x + u) - log q(u|x), ``(n, level)``."""
    levels = torch.arange(4, dtype=torch.float64).repeat(n)
    u, log_q = noise(levels.reshape(-1, 1, 1, 1) / 4, seeded(seed))
    return (density.log_prob(levels + u[:, 0, 0, 0]) - log_q).unflatten(0, (n, 4))


def test_the_bound_lies_below_the_truth_and_tightens_when_q_is_fitted():
    """Against quadrature: the weighted mean of p/q is P (z-test, false alarm 6e-5), the mean of log p/q lies below."""
    density, noise = Bump(), VariationalDequantisation(1, hidden=16).double()
    before = elbo(noise, density, 2000, 1).mean(0)
    optimiser = torch.optim.Adam(noise.parameters(), lr=2e-2)
    for step in range(150):
        loss = -elbo(noise, density, 32, step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        bounds = elbo(noise, density, 5000, 1000)
    truth = torch.stack([density.log_mass(level) for level in range(4)])
    error = bounds.std(0) / math.sqrt(len(bounds))
    assert (before < truth - 0.3).all()
    assert (bounds.mean(0) > truth - 0.15).all()
    assert (bounds.mean(0) < truth + Z * error).all()
    weights = (bounds - truth).exp()
    assert ((weights.mean(0) - 1).abs() < Z * weights.std(0) / math.sqrt(len(weights))).all()


def variational(**options) -> ImagePreprocessing:
    """An image preprocessing whose q is far from uniform."""
    preprocessing = ImagePreprocessing(dequantisation="variational", channels=1, **options).double()
    preprocessing.noise = perturbed()
    return preprocessing


def test_preprocessing_adds_minus_log_q():
    preprocessing = variational(levels=17)
    x = torch.randint(0, 17, (6, 1, 4, 4), generator=seeded())
    z, logdet = preprocessing.forward_and_logdet(x.double(), generator=seeded())
    u, log_q = preprocessing.noise(x.double() / 17, seeded())
    torch.testing.assert_close(preprocessing.inverse(z), x + u)
    torch.testing.assert_close(logdet + log_q, -preprocessing.inverse_and_logdet(z)[1])
    assert torch.equal(preprocessing.quantise(preprocessing.inverse(z)), x.to(torch.uint8))
    assert log_q.abs().min() > 0.1


@pytest.mark.parametrize("scale", [50.0, -50.0])
def test_extreme_noise_stays_within_its_pixel(scale):
    preprocessing = ImagePreprocessing(dequantisation="variational", channels=1)
    with torch.no_grad():
        preprocessing.noise.nets[0][-1].bias.fill_(scale)
    x = torch.tensor([0, 255]).reshape(2, 1, 1, 1).float()
    z, logdet = preprocessing.forward_and_logdet(x, generator=seeded())
    assert logdet.isfinite().all()
    assert torch.equal(preprocessing.quantise(preprocessing.inverse(z) + 1e-3 * -math.copysign(1, scale)), x.byte())


def test_the_log_probability_of_a_flow_trains_q():
    flow = Flow((1, 2, 2), Chain([]), preprocessing=ImagePreprocessing(17, dequantisation="variational", channels=1))
    x = torch.randint(0, 17, (8, 1, 2, 2), generator=seeded())
    flow.log_prob(x, generator=seeded()).sum().backward()
    assert all(parameter.grad is not None for parameter in flow.preprocessing.parameters())
    report = evaluate_likelihood(flow, x, draws=2, generator=seeded())
    assert "2 variational dequantisation draws" in str(report)
    assert report.as_dict()["variational"] is True


def test_noise_comes_only_from_the_generator():
    preprocessing, x = variational(), torch.randint(0, 256, (3, 1, 4, 4)).double()
    before = torch.get_rng_state()
    one, two = (preprocessing.forward_and_logdet(x, generator=seeded()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_configuration_and_arguments():
    preprocessing = variational(levels=17)
    again = preprocessing_from_config(json.loads(json.dumps(preprocessing.config())))
    assert again.config() == preprocessing.config()
    for arguments, match in (
        ({"dequantisation": "variationl"}, "Did you mean 'variational'"),
        ({"dequantisation": "variational"}, "give channels"),
        ({"dequantisation": "variational", "channels": 0}, "channels=0"),
        ({"dequantisation": "variational", "channels": 10**12}, "1…1024"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            ImagePreprocessing(**arguments)
    with pytest.raises(ShapeError, match="channels=1, but the images have 3"):
        preprocessing.forward_and_logdet(torch.zeros(2, 3, 4, 4, dtype=torch.float64))


def test_initial_networks_follow_the_seed_of_the_recipe():
    recipe = RECIPES["digits"]()
    recipe.preprocessing.dequantisation = "variational"
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    data = Dataset("digits", images, images, images, levels=17)
    before = torch.get_rng_state()
    one, two = (make_preprocessing(recipe, data).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_trains_saves_and_restores_it(tmp_path: Path):
    run = tmp_path / "run"
    assert main(["train", "digits", "--out", str(run), "preprocessing.dequantisation=variational", *SHORT]) == 0
    assert json.loads((run / "evaluation.json").read_text())["variational"] is True
    flow = load_run(run).flow
    noise = flow.preprocessing.noise
    assert any(net[-1].weight.abs().max() > 0 for net in noise.nets), "q was not trained, or not restored"
    assert flow.sample(2, generator=seeded()).dtype == torch.uint8
