"""The settings of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from contraflow.errors import ConfigurationError


@dataclass
class TrainingSettings:
    """How a flow is trained.

    The defaults are those of Residual Flows (Chen et al. 2019); docs/generated/paper_settings.md names their sources.

    Args:
        steps: number of optimiser steps.
        batch_size: number of training rows in a step.
        learning_rate: learning rate of Adam after the warm-up.
        schedule: the learning rate after the warm-up: constant as in the paper, or falling to zero at the last step
            along a cosine.
        warmup_steps: number of steps over which the learning rate rises from zero.
        weight_decay: decoupled weight decay, as in AdamW.
        beta1: decay of Adam's running mean of the gradient.
        beta2: decay of Adam's running mean of the squared gradient.
        gradient_clip: the gradient is scaled down to this Euclidean norm; the loss is counted in bits per dimension
            for images, in nats per dimension for other data. Infinity (.inf) for no clipping.
        certified: at every step, normalise weights by certified upper bounds of their norms instead of power
            iteration's estimates from below, so that no layer exceeds its bound while the flow trains. The weights
            for evaluation are always normalised so.
        polyak: decay of the moving average of the weights, with which the flow is evaluated and sampled; 0 for the
            last weights.
        log_every: number of steps between lines of the log.
        checkpoint_every: number of steps between checkpoints.
        validate_every: number of steps between scores on validation rows; 0 for none. With validation, the averaged
            weights with the best score are used for evaluation.
        validation_size: number of validation rows that are scored, at most.
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

    def _require(self, name: str, valid: bool, requirement: str) -> None:
        if not valid:
            raise ConfigurationError(f"training.{name}={getattr(self, name)}: it must be {requirement}.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step; steps count from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
