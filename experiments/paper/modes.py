r"""Reduced entropy against the mode: log p(x) of samples at lower temperatures, and of modes found by ascent.

Samples f⁻¹(Tz) shrink to f⁻¹(0) as T falls. Were log|det J_f| constant, as in an additive flow, that would be the
mode of p(x); in a Residual Flow it need not be, and log p(x) of the mode may lie far above it: Chen et al. 2019
(arXiv:1906.02735), reduced entropy sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError
from contraflow.flow import Flow
from contraflow.logdet import EVALUATION, LogDetEstimator

COLUMNS = ("rows", "mean log p(x) in nats", "lowest", "highest")


def ascend(
    log_prob: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """Local maxima of log_prob, by Adam at a rate that falls to nothing along a cosine; the start is not changed.

    Args:
        log_prob: of ``(n, *event_shape)``, ``(n,)``; may be noisy, as an unbiased estimate is.
        start: ``(n, *event_shape)``.
        steps: of Adam.
        learning_rate: the first, in units of the event.
        low, high: the box to stay in, where there is one.

    Raises:
        ConfigurationError: no step, or a rate that is not positive.

    >>> found = ascend(lambda x: -(x - 3).square().sum(1), torch.full((2, 1), 2.0))
    >>> bool(((found - 3).abs() < 0.01).all())
    True
    """
    if steps < 1 or not learning_rate > 0:
        raise ConfigurationError(f"steps={steps}, learning_rate={learning_rate}: both must be positive.")
    x = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(log_prob(x).sum(), x)
        x.grad = -gradient
        optimiser.step()
        schedule.step()
        if low is not None or high is not None:
            x.data.clamp_(low, high)
    return x.detach()


@dataclass(frozen=True)
class RealDensity:
    """log p(x) of real x, as a function of y = preprocessing(x), where a flow works.

    For images x is real pixels, dequantised ones among them, and log p(x) is what `Flow.log_prob` estimates for one
    draw of the noise. The mode of p(x) is found in y, which has no edges to run into; a mode of p(y) would be another
    point.

    Args:
        flow: a flow with the estimator to use.
        generator: of its noise.
    """

    flow: Flow
    generator: Generator | None = None

    def log_prob(self, y: Tensor) -> Tensor:
        """log p(x) in nats at y, ``(n,)``."""
        z, logdet = self.flow.bijection.forward_and_logdet(y, generator=self.generator)
        return self.flow.base.log_prob(z) + logdet - self.flow.preprocessing.inverse_and_logdet(y)[1]

    def box(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest y of real pixels; infinite for what is no image."""
        scaled = getattr(self.flow.preprocessing, "elementwise", None)
        if scaled is None:
            return torch.tensor(-math.inf), torch.tensor(math.inf)
        ends = torch.tensor([0.0, 1.0], dtype=self.flow.dtype, device=self.flow.device)
        low, high = scaled.forward(ends[:, None, None, None].expand(2, *self.flow.event_shape))
        return low, high


@dataclass(frozen=True)
class EntropyReport:
    """log p(x) of data, of samples at every temperature, and of the modes above both.

    Attributes:
        log_prob: name → log p(x) of every row in nats, ``(n,)``.
        points: name → the rows as data look (images as integer levels).
    """

    log_prob: dict[str, Tensor]
    points: dict[str, Tensor]

    def as_dict(self) -> dict[str, Any]:
        """Mean log p(x) and its standard error for JSON."""
        return {name: asdict(_summary(values)) for name, values in self.log_prob.items()}

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `COLUMNS` for every kind of rows."""
        found = {name: _summary(values) for name, values in self.log_prob.items()}
        return [
            (name, f"{one.mean:.1f} ± {one.standard_error:.1f}", f"{one.lowest:.1f}", f"{one.highest:.1f}")
            for name, one in found.items()
        ]


@dataclass(frozen=True)
class _Summary:
    mean: float
    standard_error: float
    lowest: float
    highest: float


def _summary(values: Tensor) -> _Summary:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return _Summary(values.mean().item(), error, values.min().item(), values.max().item())


def reduced_entropy(
    flow: Flow,
    data: Tensor,
    temperatures: Sequence[float] = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0),
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    climbing: LogDetEstimator | None = None,
    estimator: LogDetEstimator = EVALUATION,
    draws: int = 4,
    generator: Generator | None = None,
    progress: Callable[[str], None] | None = None,
) -> EntropyReport:
    """Compare samples at lower temperatures with the modes that ascent in x reaches from samples and from data.

    Args:
        flow: any flow.
        data: ``(n, *event_shape)``; as many samples are drawn at every temperature, from the same latent noise.
        temperatures: factors on the standard deviation of the base.
        steps, learning_rate: of `ascend`, in the units of the preprocessed data.
        climbing: estimator during the ascent; the flow's own when not given.
        estimator: of the values reported.
        draws: estimates averaged for every value.
        generator: of all noise.
        progress: told the name of what is done.
    """
    climb = RealDensity(flow if climbing is None else flow.with_logdet(climbing), generator)
    low, high = climb.box()
    with torch.no_grad():
        dequantised = flow.preprocessing.forward(data.to(flow.device), generator=generator).to(flow.dtype)
        noise = flow.base.sample(len(data), generator=generator)
        places = {"data": dequantised}
        for temperature in temperatures:
            places[f"samples at T = {temperature:g}"] = flow.bijection.inverse(temperature * noise)
    for name in (f"samples at T = {max(temperatures):g}", "data"):
        if progress is not None:
            progress(f"modes above {name}")
        inside = places[name].clamp(low, high)
        places[f"modes above {name}"] = ascend(
            climb.log_prob, inside, steps=steps, learning_rate=learning_rate, low=low, high=high
        )
    return _report(flow, places, RealDensity(flow.with_logdet(estimator), generator), draws, progress)


@torch.no_grad()
def _report(
    flow: Flow,
    places: Mapping[str, Tensor],
    density: RealDensity,
    draws: int,
    progress: Callable[[str], None] | None,
) -> EntropyReport:
    values, points = {}, {}
    for name, y in places.items():
        if progress is not None:
            progress(f"log p(x) of {name}")
        values[name] = torch.stack([density.log_prob(y) for _ in range(draws)]).double().mean(dim=0).cpu()
        points[name] = flow.preprocessing.quantise(flow.preprocessing.inverse(y)).cpu()
    return EntropyReport(values, points)


def entropy_picture(report: EntropyReport, path: Path) -> None:
    """log p(x) of every row of a report, a line for each of its kinds.

    Args:
        report: of `reduced_entropy`.
        path: PNG file.
    """
    from matplotlib.figure import Figure

    names = list(report.log_prob)
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        values = report.log_prob[name]
        axes.plot(values.numpy(), [place] * len(values), "|", color="tab:blue", alpha=0.5, markersize=10)
        axes.plot([values.mean().item()], [place], "o", color="black")
    axes.set_yticks(range(len(names)), labels=names)
    axes.invert_yaxis()
    axes.set(xlabel="log p(x) in nats")
    figure.savefig(path, format="png", dpi=150)
