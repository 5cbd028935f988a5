"""Flow matching: the objective that trains the vector field of a continuous flow without solving its equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.bijections import Bijection, Chain, ContinuousFlow, MultiScale
from contraflow.errors import ConfigurationError
from contraflow.flow import Flow
from contraflow.inputs import FLOATS, INTEGERS, accept, narrow
from contraflow.logdet import LogDetEstimator
from contraflow.logdet.laws import systematic_uniforms
from contraflow.training.objective import LIKELIHOOD, Batch, Objective, Terms


@dataclass(frozen=True)
class FlowMatching(Objective):
    r"""The squared error of the velocity along straight lines from data x at t = 0 to draws z of the base at t = 1,

        E ‖f(t, (1 - t) x + t z) - (z - x)‖² / D,   t uniform on [0, 1],  z independent of x.

    Its minimiser f(t, y) = E[z - x | (1 - t) x + t z = y] transports the data distribution to the base, so `log_prob`
    and `sample` need no change; they solve the equation, which training does not. The loss is a mean over dimensions,
    has no unit and bounds no likelihood, so validation scores log p(x). The estimator of the recipe is not used in
    training. Lipman, Chen, Ben-Hamu, Nickel, Le, Flow matching for generative modeling, 2023 (arXiv:2210.02747), with
    σ_min = 0 and time in the direction of this library. docs/maths/flow-matching.md.

    The flow may have several continuous flows in a row: K of them share the time, the k-th has the interval
    [(k - 1)/K, k/K]. Its fields are called with times of shape ``(batch, 1, …)``.
    """

    def check(self, flow: Flow, labels: Tensor | None) -> None:
        fields = {parameter for part in continuous_flows(flow) for parameter in part.field.parameters()}
        others = [name for name, parameter in flow.named_parameters() if parameter not in fields]
        if others:
            raise ConfigurationError(
                f"objective.kind=flow_matching trains vector fields only, and {others[0]} is outside of them: use "
                "objective.kind=likelihood, or a flow whose preprocessing and base have no parameters."
            )

    def batch(self, x: Tensor, rows: Tensor, data: Tensor, labels: Tensor | None, generator: Generator) -> Batch:
        return Batch(x)

    def terms(self, flow: Flow, batch: Batch, generator: Generator) -> Terms:
        x = accept(
            batch.x, flow.event_shape, (*FLOATS, *INTEGERS), flow.dtype, in_float64=flow.preprocessing.in_float64
        )
        x = narrow(flow.preprocessing(x, generator=generator), flow.dtype)
        z = flow.base.sample(len(x), generator=generator).reshape(x.shape)
        t = systematic_uniforms(len(x), generator, x.device).to(x.dtype)
        loss = matching_error(continuous_flows(flow), x, z, t).mean()
        return Terms(loss, {"matching_error": loss.item()})

    def scale(self, flow: Flow) -> float:
        """1: the loss is a mean over dimensions already."""
        return 1.0

    def validate(
        self,
        flow: Flow,
        x: Tensor,
        labels: Tensor | None,
        *,
        estimator: LogDetEstimator,
        batch_size: int,
        generator: Generator,
    ) -> dict[str, float]:
        return LIKELIHOOD.validate(flow, x, labels, estimator=estimator, batch_size=batch_size, generator=generator)

    def value(self, flow: Flow, terms: Mapping[str, float]) -> float:
        """log p(x) in nats a row, by which the best weights are chosen."""
        return LIKELIHOOD.value(flow, terms)


def matching_error(flows: Sequence[ContinuousFlow], x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """‖f(t, (1 - t) x + t z) - (z - x)‖² / D for the field f of K flows in a row, ``(batch,)``.

    Over its interval the k-th flow runs K times as fast: f(t, y) = K f_k(K t - k + 1, y).

    Args:
        flows: from the data to the latent.
        x, z: ends of the lines at t = 0 and t = 1, ``(batch, *event)``.
        t: times in [0, 1], ``(batch,)``.
    """
    count = len(flows)
    index = (count * t).long().clamp_max(count - 1)
    times = t.reshape(-1, *[1] * (x.ndim - 1))
    points, errors = torch.lerp(x, z, times), torch.empty_like(t)
    for k, flow in enumerate(flows):
        rows = index == k
        if bool(rows.any()):
            velocity = count * flow.field(count * times[rows] - k, points[rows])
            errors = errors.masked_scatter(rows, (velocity - (z - x)[rows]).square().flatten(1).mean(dim=1))
    return errors


def continuous_flows(flow: Flow) -> list[ContinuousFlow]:
    """The continuous flows that a flow consists of, from the data to the latent.

    Raises:
        ConfigurationError: a part of the flow has no vector field, several levels factor out parts of an image, or a
            field has a penalty that is integrated along solves.
    """
    parts = list(_parts(flow.bijection))
    other = next((part for part in parts if not isinstance(part, ContinuousFlow)), None)
    if other is not None or not parts:
        obstacle = "the flow is empty" if other is None else f"this flow has a {type(other).__name__}"
        raise ConfigurationError(
            f"objective.kind=flow_matching needs a flow made of vector fields alone, and {obstacle}: use "
            "architecture.name=ffjord or another FFJORD, with architecture.options.levels=1 for images."
        )
    flows = [part for part in parts if isinstance(part, ContinuousFlow)]
    if any(part.kinetic_weight or part.jacobian_weight for part in flows):
        raise ConfigurationError(
            "objective.kind=flow_matching solves no equation in training, along which kinetic_weight and "
            "jacobian_weight would be integrated: set both to 0."
        )
    return flows


def _parts(bijection: Bijection) -> list[Bijection]:
    """The parts of chains; a single level of a multi-scale flow only flattens what it gives."""
    if isinstance(bijection, MultiScale) and len(bijection.levels) == 1:
        return _parts(bijection.levels[0])  # type: ignore[arg-type]
    if isinstance(bijection, Chain):
        return [part for child in bijection for part in _parts(child)]
    return [bijection]
