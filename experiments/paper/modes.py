r"""Reduced entropy sampling and the mode: log p(x) of samples at lower temperatures, and of modes found by ascent.

Samples f⁻¹(Tz) tend to f⁻¹(0) as T → 0. This is the mode of p(x) if log|det J_f| is constant, as in an additive flow,
but in general not in a Residual Flow, where log p(x) of the mode may be far higher. Chen et al. 2019
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
from contraflow.evaluation.figures import colour, png_figure
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
    """Local maxima of log_prob, found by Adam with a cosine schedule of the learning rate.

    Args:
        log_prob: of points ``(n, *event_shape)``, returns ``(n,)``; may be noisy, such as an unbiased estimate.
        start: ``(n, *event_shape)``; not changed.
        steps: number of steps of Adam.
        learning_rate: at the first step, in units of the event.
        low, high: bounds of the points, if there are any.

    Raises:
        ConfigurationError: no step, or a learning rate that is not positive.

    >>> maxima = ascend(lambda x: -(x - 3).square().sum(1), torch.full((2, 1), 2.0))
    >>> bool(((maxima - 3).abs() < 0.01).all())
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
    """log p(x) of real-valued x, as a function of y = preprocessing(x), the input of the flow's bijection.

    For images, x has real-valued pixels, such as dequantised ones, and `Flow.log_prob` estimates log p(x) for one draw
    of the noise. The mode of p(x) is searched in the coordinates y, which are unbounded; it differs from the mode of
    p(y).

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
        """Lowest and highest y of pixels; infinite for other data."""
        scaled = getattr(self.flow.preprocessing, "elementwise", None)
        if scaled is None:
            return torch.tensor(-math.inf), torch.tensor(math.inf)
        ends = torch.tensor([0.0, 1.0], dtype=self.flow.dtype, device=self.flow.device)
        low, high = scaled.forward(ends[:, None, None, None].expand(2, *self.flow.event_shape))
        return low, high


@dataclass(frozen=True)
class EntropyReport:
    """log p(x) of data, of samples at all temperatures, and of the modes that ascent reaches from them.

    Attributes:
        log_prob: name → log p(x) of each row in nats, ``(n,)``.
        points: name → the rows as data (images with integer levels).
    """

    log_prob: dict[str, Tensor]
    points: dict[str, Tensor]

    def as_dict(self) -> dict[str, Any]:
        """Mean log p(x) and its standard error for JSON."""
        return {name: asdict(_summary(values)) for name, values in self.log_prob.items()}

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `COLUMNS` for each name."""
        summaries = {name: _summary(values) for name, values in self.log_prob.items()}
        return [
            (name, f"{row.mean:.1f} ± {row.standard_error:.1f}", f"{row.lowest:.1f}", f"{row.highest:.1f}")
            for name, row in summaries.items()
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
        data: ``(n, *event_shape)``; n samples are drawn at each temperature, from the same latent noise.
        temperatures: factors of the standard deviation of the base.
        steps, learning_rate: of `ascend`, in the units of the preprocessed data.
        climbing: estimator during the ascent; the flow's own by default.
        estimator: of the reported values.
        draws: number of estimates averaged for each value.
        generator: of all noise.
        progress: called with the name of each task.
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
    """log p(x) of all rows of a report, one line for each name.

    Args:
        report: from `reduced_entropy`.
        path: PNG file.
    """
    with png_figure(path, 7, 0.8 + 0.4 * len(report.log_prob)) as figure:
        axes = figure.subplots()
        for place, values in enumerate(report.log_prob.values()):
            axes.plot(values.numpy(), [place] * len(values), "|", color=colour("data"), alpha=0.5, markersize=10)
            axes.plot([values.mean().item()], [place], "o", color=colour("ink"))
        axes.set_yticks(range(len(report.log_prob)), labels=list(report.log_prob))
        axes.invert_yaxis()
        axes.set(xlabel="log p(x) in nats")
