"""The training loop, short enough to be copied and changed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from contraflow.bijections import training_solves
from contraflow.errors import TrainingError
from contraflow.flow import Flow
from contraflow.lipschitz import mean_norm, update_lipschitz
from contraflow.training.average import PolyakAverage
from contraflow.training.objective import LIKELIHOOD, Objective
from contraflow.training.settings import TrainingSettings


@dataclass
class TrainingState:
    """Everything that training needs to continue exactly where it stopped.

    Args:
        flow: the flow in training.
        optimiser: its optimiser.
        average: the Polyak average of its weights.
        generator: the only source of randomness: order of the data, probes, truncations, noise, augmentation.
        step: number of steps taken.
        epoch: number of permutations of the data drawn.
        order: the current permutation of the data.
        position: number of its entries that were used.
        rows: indices of the rows of the last batch.
        best: the averaged weights with the best score on validation rows; ``None`` before the first score.
        best_score: that score, in nats.
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
        """The state before the first step: Adam with decoupled weight decay, a generator on the device of the flow."""
        # A layer that is loaded from a checkpoint counts as warm, so the checkpoint of step 0 must hold warm layers.
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
        """The next `size` rows. Every epoch has a new permutation; its incomplete last batch is dropped."""
        size = min(size, len(data))
        if self.position + size > len(self.order):
            self.order = torch.randperm(len(data), generator=self.generator, device=self.generator.device).cpu()
            self.position = 0
            self.epoch += 1
        self.rows = self.order[self.position : self.position + size]
        self.position += size
        return data[self.rows].to(self.flow.device)

    def evaluation_weights(self) -> dict[str, Tensor]:
        """The weights for evaluation and sampling: the best on validation rows, else the average."""
        return self.average.weights if self.best is None else self.best


@dataclass(frozen=True)
class StepRecord:
    """What is known after a training step.

    Attributes:
        step: number of steps taken, this one included.
        loss: the loss, in nats a sample, without penalties: -log p(x), or -λ log p(x) - log p(y|x).
        gradient_norm: Euclidean norm of the gradient before it is clipped.
        learning_rate: the learning rate of the step.
        seconds: wall-clock time of the step.
        evaluations: number of evaluations of vector fields in continuous flows (NFE); 0 in other flows.
        terms: unbiased values of the terms of the objective: log_prob, cross_entropy and accuracy where it has them.
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
    """Train from `state.step` to `settings.steps`; yields a record after every step.

    Args:
        state: the flow with its optimiser; changed in place.
        data: training rows ``(n, *event_shape)``.
        settings: see `TrainingSettings`.
        objective: what is minimised.
        augment: changes a batch at random, for instance by flips.
        labels: labels of the rows, int64 ``(n,)``, -1 where unknown, for an objective that needs them.

    Raises:
        ConfigurationError: the objective does not fit this flow or these labels.
        TrainingError: the loss or the gradient is not finite; the message names the first block with a
            non-finite output, or the first parameter with a non-finite gradient.
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
        with training_solves(flow) as solves:
            terms = objective.terms(flow, batch, state.generator)
        penalty = sum(solve.penalty.mean() for solve in solves)
        if not math.isfinite(value := terms.loss.item()):
            raise TrainingError(f"step {state.step}: the loss is {value}. {non_finite_block(flow, batch.x)}")
        optimiser.zero_grad()
        ((terms.loss + penalty) / scale + mean_norm(flow).to(terms.loss)).backward()
        norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), settings.gradient_clip).item()
        if not math.isfinite(norm):
            raise TrainingError(f"step {state.step}: the gradient is {norm}. {non_finite_gradient(flow)}")
        optimiser.step()
        state.step += 1
        state.average.update(flow, state.step)

        evaluations = sum(solve.evaluations for solve in solves)
        seconds = time.perf_counter() - start
        yield StepRecord(state.step, value, norm, rate, seconds, evaluations, terms.values)


_REMEDY = "Lower training.learning_rate or training.gradient_clip, and resume from the last good checkpoint."


@torch.no_grad()
def non_finite_block(flow: Flow, x: Tensor) -> str:
    """A sentence that names the first module of the flow with a non-finite output for this batch, and a remedy."""
    blocks: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: object) -> None:
            if not blocks and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                blocks.append(name)

        return hook

    # Hooks see what goes through plain `forward`: bijections without children, and blocks as a whole.
    handles = [module.register_forward_hook(watch(name)) for name, module in flow.named_modules() if name]
    try:
        flow(x)
    finally:
        for handle in handles:
            handle.remove()
    if blocks:
        return f"The first block with a non-finite output is {blocks[0]}. {_REMEDY}"
    return f"The outputs of all blocks are finite, the log-determinant is not. {_REMEDY}"


def non_finite_gradient(flow: Flow) -> str:
    """A sentence that names the first parameter with a non-finite gradient, and a remedy."""
    for name, parameter in flow.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"The first parameter with a non-finite gradient is {name}. {_REMEDY}"
    return f"All gradients are finite, their norm is not. {_REMEDY}"
