"""Checks of unbiased log-determinant estimators, as z-tests with a stated false-alarm rate."""

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
    """Check that value and gradient are unbiased, and that the variance due to probes is proportional to 1/probes.

    The contraction is x ↦ 0.6·tanh(Wx) with ‖W‖₂ = 1 in three dimensions.

    Args:
        estimator: an unbiased estimator; the biased `PowerSeries` passes only `check_probe_variance`.
        false_alarm: probability that a correct estimator fails a test, over all components together. The seed is fixed,
            so a test that passes once always passes.
        calls, batch: number of independent calls, and of samples in each; a stratified batch counts as one draw.
        seed: seed of all random numbers.

    Raises:
        AssertionError: a property is violated; the message gives the z-score.
    """
    generator = Generator().manual_seed(seed)
    # W is near the identity and x near the origin, so that traces of powers decay no faster than about 0.6^k.
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
    """Check that the means of value and gradient are log|det(I + J_g(x))| and its gradient to x and the tensors of g.

    Every component of the gradient has its own z-test; `false_alarm` is the rate of all of them together (Bonferroni).

    Args:
        estimator, false_alarm, calls, batch, seed: as for `check_estimator`.
        g: a contraction whose powers decay fast enough for a finite variance of the estimator.
        x: one sample ``(1, *event)``, in float64.
        gradient: how gradients are computed, a name in `contraflow.logdet.GRADIENTS`.
        determinant: the log-determinant to estimate, log|det(I + J)| by default.

    Raises:
        AssertionError: a mean deviates by too many standard errors.
    """
    truth = _value_and_gradient(g, Exact().of(determinant), x, "series", None)
    estimator = estimator.of(determinant)
    many = x.expand(batch, *x.shape[1:])
    generator = Generator(x.device).manual_seed(seed)
    draws = torch.stack([_value_and_gradient(g, estimator, many, gradient, generator) for _ in range(calls)])
    spread = draws.std(0) / math.sqrt(calls)
    # A component without variance has to be exact up to rounding errors.
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
    """Check that the variance of the value is proportional to 1/probes where no other noise contributes.

    The Jacobian is nilpotent, so the traces of all its powers are 0 and the truncation adds no variance. Estimators
    without probes pass.

    Raises:
        AssertionError: the variance with one probe is not `probes` times the variance with `probes` probes.
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
    one_probe, several_probes = (square.mean().item() for square in squares)
    noise = math.hypot(*(square.std().item() / square.mean().item() / math.sqrt(samples) for square in squares))
    limit = NormalDist().inv_cdf(1 - false_alarm / 2)
    ratio = one_probe / several_probes
    z = abs(math.log(ratio / probes)) / noise
    assert z <= limit, f"{probes} probes reduce the variance by a factor of {ratio:.2f} ({z:.1f} standard errors off)."


def _value_and_gradient(
    g: Contraction, estimator: LogDetEstimator, x: Tensor, gradient: str, generator: Generator | None
) -> Tensor:
    """The batch means of the value and of all gradients, in one vector."""
    start = x.detach().clone().requires_grad_()
    value = GRADIENTS[gradient](g, estimator, start, generator)[1].mean()
    inputs = [start, *(tensor for tensor in g.tensors() if tensor.requires_grad)]
    grads = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return torch.cat([value.detach()[None], grads[0].sum(0).flatten(), *(grad.flatten() for grad in grads[1:])])


class _ScaledTanh(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return 0.6 * torch.tanh(nn.functional.linear(x, self.weight))
