"""The laws of an unbiased log-determinant estimator, as z-tests with a stated false-alarm rate."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import torch
from torch import Generator, Tensor, nn

from contraflow.logdet import GRADIENTS, RESIDUAL, Contraction, Determinant, Exact, LogDetEstimator, ModuleContraction


def check_estimator(
    estimator: LogDetEstimator, *, false_alarm: float = 1e-5, calls: int = 300, batch: int = 64, seed: int = 0
) -> None:
    """Value and gradient are unbiased; the probes' part of the variance falls as 1/probes.

    The contraction is x ↦ 0.6·tanh(Wx) with ‖W‖₂ = 1 in three dimensions.

    Args:
        estimator: an unbiased one; `PowerSeries` is biased by construction and passes `check_probe_variance` alone.
        false_alarm: probability that a correct estimator fails one of the tests, over all components together. The
            seed is fixed, so a test that passes once passes always.
        calls, batch: independent calls, and samples in each; a stratified batch counts as one draw.
        seed: seed of everything random.

    Raises:
        AssertionError: a law is broken; the message gives the z-score.
    """
    generator = Generator().manual_seed(seed)
    # Near the identity and near the origin, so that traces of powers fall no faster than about 0.6^k.
    noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    weight = torch.eye(3, dtype=torch.float64) + noise / torch.linalg.matrix_norm(noise, 2)
    g = ModuleContraction(_ScaledTanh(weight / torch.linalg.matrix_norm(weight, 2)), 0.6)
    x = 0.3 * torch.randn(1, 3, generator=generator, dtype=torch.float64)
    check_unbiased(estimator, g, x, false_alarm=false_alarm, calls=calls, batch=batch, seed=seed)
    check_probe_variance(estimator, false_alarm=false_alarm, seed=seed)


def check_unbiased(
    estimator: LogDetEstimator,
    g: Contraction,
    x: Tensor,
    *,
    gradient: str = "dual",
    determinant: Determinant = RESIDUAL,
    false_alarm: float = 1e-5,
    calls: int = 300,
    batch: int = 64,
    seed: int = 0,
) -> None:
    """E[value] = log|det(I + J_g(x))| and E[gradient] = its gradient in x and in the tensors of g.

    Every component of the gradient gets a z-test; `false_alarm` is shared between all of them (Bonferroni).

    Args:
        estimator, false_alarm, calls, batch, seed: as for `check_estimator`.
        g: a contraction whose powers decay fast enough for the estimator to have a variance.
        x: one sample ``(1, *event)``, in float64.
        gradient: route, a name in `contraflow.logdet.GRADIENTS`.
        determinant: another log-determinant in the place of log|det(I + J)|.

    Raises:
        AssertionError: a mean is too many standard errors off.
    """
    truth = _value_and_gradient(g, Exact().of(determinant), x, "series", None)
    estimator = estimator.of(determinant)
    many = x.expand(batch, *x.shape[1:])
    generator = Generator(x.device).manual_seed(seed)
    draws = torch.stack([_value_and_gradient(g, estimator, many, gradient, generator) for _ in range(calls)])
    spread = draws.std(0) / math.sqrt(calls)
    # A component that never varies has to be right to rounding.
    error = (draws.mean(0) - truth).abs()
    z = error / (spread + 1e-12 * (1 + truth.abs()))
    limit = NormalDist().inv_cdf(1 - false_alarm / (2 * z.numel()))
    assert z[0] <= limit, f"value: {error[0]:.3g} from the exact one, {z[0]:.1f} standard errors (limit {limit:.1f})."
    worst = int(z.argmax())
    assert z[worst] <= limit, (
        f"gradient, component {worst - 1}: {error[worst]:.3g} from the exact {truth[worst]:.3g}, "
        f"{z[worst]:.1f} standard errors (limit {limit:.1f})."
    )


def check_probe_variance(
    estimator: LogDetEstimator, *, probes: int = 4, samples: int = 20_000, false_alarm: float = 1e-5, seed: int = 0
) -> None:
    """Var[value] falls as 1/probes, where the probes are all there is to vary.

    At a nilpotent Jacobian every trace of a power is 0, so the truncation adds no variance of its own. Estimators
    without probes pass.

    Raises:
        AssertionError: the variance with one probe is not `probes` times that with as many probes.
    """
    if not any(field.name == "probes" for field in dataclasses.fields(estimator)):
        return
    weight = torch.triu(torch.full((4, 4), 0.4, dtype=torch.float64), diagonal=1)
    linear = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
    g = ModuleContraction(linear, 0.99)
    x = torch.zeros(samples, 4, dtype=torch.float64)
    generator = Generator().manual_seed(seed)
    squares = []
    for count in (1, probes):
        changed = dataclasses.replace(estimator, probes=count)  # type: ignore[call-arg]
        with torch.no_grad():
            squares.append(GRADIENTS["dual"](g, changed, x, generator)[1].square())
    one, several = (square.mean().item() for square in squares)
    noise = math.hypot(*(square.std().item() / square.mean().item() / math.sqrt(samples) for square in squares))
    limit = NormalDist().inv_cdf(1 - false_alarm / 2)
    z = abs(math.log(one / several / probes)) / noise
    assert z <= limit, f"variance falls by {one / several:.2f} with {probes} probes ({z:.1f} standard errors off)."


def _value_and_gradient(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, gradient: str, generator: Generator | None
) -> Tensor:
    """Batch means of the value and of all gradients, in one vector."""
    start = x.detach().clone().requires_grad_()
    value = GRADIENTS[gradient](g, estimator, start, generator)[1].mean()
    inputs = [start, *(tensor for tensor in g.tensors() if tensor.requires_grad)]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    grads = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, found, strict=True)]
    return torch.cat([value.detach()[None], grads[0].sum(0).flatten(), *(grad.flatten() for grad in grads[1:])])


class _ScaledTanh(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return 0.6 * torch.tanh(nn.functional.linear(x, self.weight))
