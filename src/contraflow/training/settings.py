"""The knobs of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from contraflow.errors import ConfigurationError


@dataclass
class TrainingSettings:
    """How a flow is trained; the defaults are the paper's (Chen et al. 2019, Appendix E).

    Args:
        steps: optimiser steps in all.
        batch_size: samples a step.
        learning_rate: of Adam.
        schedule: after the warm-up, constant as in the paper, or falling to zero along a cosine by the last step.
        warmup_steps: steps over which the learning rate rises from zero.
        weight_decay: decoupled, as in AdamW.
        beta1: decay of Adam's mean of the gradient.
        beta2: decay of Adam's mean of its square.
        gradient_clip: largest Euclidean norm of the gradient of the loss in bits (images) or nats per dimension.
        certified: normalise weights by certified bounds at every step, so that no layer ever exceeds its bound
            (`update_lipschitz(certified=True)`), instead of estimates from below. Evaluation weights always are.
        polyak: decay of the average of the weights that evaluation and sampling use.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between scores on the validation set; 0 for none. Where on, the averaged weights that
            scored best are kept for evaluation.
        validation_size: most validation samples a score uses.
    """

    steps: int = 100_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 1000
    weight_decay: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_clip: float = 1.0
    certified: bool = False
    polyak: float = 0.999
    log_every: int = 10
    checkpoint_every: int = 500
    validate_every: int = 0
    validation_size: int = 1000

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "checkpoint_every", "validation_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "warmup_steps", "validate_every", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "gradient_clip"):
            self._require(name, getattr(self, name) > 0, "positive")
        for name in ("beta1", "beta2", "polyak"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    def _require(self, name: str, fine: bool, what: str) -> None:
        if not fine:
            raise ConfigurationError(f"training.{name}={getattr(self, name)}: it must be {what}.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
