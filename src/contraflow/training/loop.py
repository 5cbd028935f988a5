"""The training loop: short enough to copy out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from contraflow.bijections import watch_solves
from contraflow.errors import TrainingError
from contraflow.flow import Flow
from contraflow.lipschitz import mean_norm, update_lipschitz
from contraflow.training.average import PolyakAverage
from contraflow.training.objective import LIKELIHOOD, Objective
from contraflow.training.settings import TrainingSettings


@dataclass
class TrainingState:
    """Everything that a run needs to go on exactly where it stood.

    Args:
        flow: the flow in training.
        optimiser: its optimiser.
        average: the Polyak average of its weights.
        generator: the one source of randomness: data order, probes, truncations, noise, augmentation.
        step: steps taken.
        epoch: permutations of the data drawn.
        order: the permutation in use; position: how much of it is used up; rows: those of the last batch.
        best: averaged weights that scored best on the validation set, with best_score in nats.
    """

    flow: Flow
    optimiser: torch.optim.Optimizer
    average: PolyakAverage
    generator: Generator
    step: int = 0
    epoch: int = 0
    order: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    position: int = 0
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    best: dict[str, Tensor] | None = None
    best_score: float = -math.inf

    @classmethod
    def begin(cls, flow: Flow, settings: TrainingSettings, seed: int) -> TrainingState:
        """A fresh state: Adam with decoupled weight decay, one seeded generator on the flow's device."""
        # A loaded layer counts as warm: so must one that was saved before the first step.
        update_lipschitz(flow)
        optimiser = torch.optim.AdamW(
            flow.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=flow.device.type in ("cpu", "cuda"),
        )
        generator = Generator(flow.device).manual_seed(seed)
        return cls(flow, optimiser, PolyakAverage(flow, settings.polyak), generator)

    def next_batch(self, data: Tensor, size: int) -> Tensor:
        """The next `size` rows of a fresh permutation every epoch; the incomplete end of an epoch is dropped."""
        size = min(size, len(data))
        if self.position + size > len(self.order):
            self.order = torch.randperm(len(data), generator=self.generator, device=self.generator.device).cpu()
            self.position = 0
            self.epoch += 1
        self.rows = self.order[self.position : self.position + size]
        self.position += size
        return data[self.rows].to(self.flow.device)

    def evaluation_weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and sample with: the best on validation, else the average."""
        return self.average.weights if self.best is None else self.best


@dataclass(frozen=True)
class StepRecord:
    """What one step shows.

    Attributes:
        loss: what is minimised, a sample in nats, without penalties: -log p(x), or -λ log p(x) - log p(y|x).
        evaluations: of vector fields by its continuous flows (NFE); 0 where there are none.
        terms: the terms of the loss, true unbiased values: log_prob, cross_entropy, accuracy, those that it has.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    evaluations: int = 0
    terms: Mapping[str, float] = field(default_factory=dict)


def train(
    state: TrainingState,
    data: Tensor,
    settings: TrainingSettings,
    objective: Objective = LIKELIHOOD,
    augment: Callable[[Tensor, Generator], Tensor] | None = None,
    labels: Tensor | None = None,
) -> Iterator[StepRecord]:
    """Train from `state.step` to `settings.steps`, yielding after every step.

    Args:
        state: changed in place.
        data: training rows ``(n, *event_shape)``.
        settings: see `TrainingSettings`.
        objective: what is minimised.
        augment: random change of a batch, such as flips.
        labels: of the rows, int64 ``(n,)``, -1 for unknown ones, for an objective that needs them.

    Raises:
        ConfigurationError: the objective cannot do with this flow, or with these labels.
        TrainingError: the loss or the gradient is not finite; the message names the first guilty block.
    """
    flow, optimiser = state.flow, state.optimiser
    objective.check(flow, labels)
    scale = objective.scale(flow)
    flow.train()
    while state.step < settings.steps:
        start = time.perf_counter()
        rate = settings.learning_rate_at(state.step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = state.next_batch(data, settings.batch_size)
        batch = objective.batch(x, state.rows, data, labels, state.generator)
        if augment is not None:
            batch = batch.changed(lambda rows: augment(rows, state.generator))

        update_lipschitz(flow, certified=settings.certified)
        with watch_solves(flow) as solves:
            terms = objective.terms(flow, batch, state.generator)
        penalty = sum(one.penalty.mean() for one in solves)
        if not math.isfinite(value := terms.loss.item()):
            raise TrainingError(f"step {state.step}: the loss is {value}. {guilty_block(flow, batch.x)}")
        optimiser.zero_grad()
        ((terms.loss + penalty) / scale + mean_norm(flow).to(terms.loss)).backward()
        norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), settings.gradient_clip).item()
        if not math.isfinite(norm):
            raise TrainingError(f"step {state.step}: the gradient is {norm}. {guilty_gradient(flow)}")
        optimiser.step()
        state.step += 1
        state.average.update(flow, state.step)

        evaluations = sum(one.evaluations for one in solves)
        seconds = time.perf_counter() - start
        yield StepRecord(state.step, value, norm, rate, seconds, evaluations, terms.values)


_REMEDY = "Lower training.learning_rate or training.gradient_clip and resume from the last good checkpoint."


@torch.no_grad()
def guilty_block(flow: Flow, x: Tensor) -> str:
    """Names the first module of the flow whose output is not finite for this batch."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    # Maps without children, and blocks as a whole: the outputs of plain `forward`.
    handles = [one.register_forward_hook(watch(name)) for name, one in flow.named_modules() if name]
    try:
        flow(x)
    finally:
        for handle in handles:
            handle.remove()
    where = found[0] if found else "the log-determinant; all blocks' outputs are finite"
    return f"First not finite: {where}. {_REMEDY}"


def guilty_gradient(flow: Flow) -> str:
    """Names the parameters whose gradients are not finite."""
    names = [name for name, one in flow.named_parameters() if one.grad is not None and not one.grad.isfinite().all()]
    return f"First not finite: {names[0] if names else 'its norm'}. {_REMEDY}"
