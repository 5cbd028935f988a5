"""The run that a report describes, its data, and results that several sections share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.data import Dataset
from contraflow.data.formats.tables import Note, no_note
from contraflow.errors import ConfigurationError
from contraflow.evaluation import (
    ClassificationReport,
    LikelihoodReport,
    Reconstruction,
    Scores,
    reconstruct,
    report_classes,
    report_scores,
    score,
)
from contraflow.flow import Flow
from contraflow.lipschitz import Certificate
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import Run
from contraflow.runs.build import make_generator
from contraflow.runs.samples import draw_samples

#: Called with the name of a task, the number of parts that are done, and the number of all parts.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ReportSettings:
    """How much a report computes.

    Args:
        rows: largest number of rows of a split that are scored; 200 images or 10,000 other rows by default.
        samples: number of samples to draw; that of the recipe by default.
        other: a named data set, or a path, to score beside the run's own data.
        root: folder of the named data sets.
        seed: of all randomness.
    """

    rows: int | None = None
    samples: int | None = None
    other: str | None = None
    root: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.rows is not None and self.rows < 2) or (self.samples is not None and self.samples < 1):
            raise ConfigurationError(
                f"rows={self.rows}, samples={self.samples}: expected at least two rows and one sample."
            )


@dataclass(frozen=True)
class Scored:
    """Scores of rows and their summary."""

    scores: Scores
    report: LikelihoodReport


@dataclass(frozen=True)
class RunData:
    """A run, its data, and the settings of its report."""

    trained: Run
    data: Dataset
    settings: ReportSettings = field(default_factory=ReportSettings)
    progress: Progress = lambda name, done, total: None
    note: Note = no_note

    @property
    def flow(self) -> Flow:
        """The flow with its weights for evaluation and the recipe's estimator for evaluation."""
        return self.trained.flow.with_logdet(self.trained.recipe.evaluation.estimator)

    @property
    def images(self) -> ImagePreprocessing | None:
        """The preprocessing of a flow on images; ``None`` for other data."""
        preprocessing = self.trained.flow.preprocessing
        return preprocessing if isinstance(preprocessing, ImagePreprocessing) else None

    @property
    def rows(self) -> int:
        """Largest number of rows of a split that are scored."""
        return self.settings.rows or (10_000 if self.images is None else 200)

    @property
    def test(self) -> Tensor:
        """The test rows that are scored."""
        limit = self.trained.recipe.evaluation.limit
        return self.data.test[: min(self.rows, limit or self.rows)]

    @property
    def test_labels(self) -> Tensor | None:
        """Labels of these rows, if the data have labels."""
        labels = self.data.test_labels
        return None if labels is None else labels[: len(self.test)]

    def generator(self) -> Generator:
        """A new generator with the seed of the settings, so that sections do not depend on each other."""
        return make_generator(self.trained.flow.device, self.settings.seed)

    def score(self, name: str, rows: Tensor, draws: int = 1) -> Scored:
        """Score rows exactly as `contraflow evaluate` does."""
        recipe = self.trained.recipe.evaluation
        estimator = recipe.estimator
        scores = score(
            self.trained.flow,
            rows,
            estimator=estimator,
            draws=draws,
            batch_size=recipe.batch_size,
            generator=self.generator(),
            progress=lambda done, total: self.progress(f"score of {name}", done, total),
        )
        return Scored(scores, report_scores(self.trained.flow, scores, estimator))

    @cached_property
    def test_score(self) -> Scored:
        """Scores of the test rows, with the recipe's number of draws."""
        return self.score("test", self.test, self.trained.recipe.evaluation.draws)

    @cached_property
    def classification(self) -> ClassificationReport | None:
        """Scores of the classifier on the same rows and draws; ``None`` without a classifier or without labels."""
        return report_classes(self.trained.flow, self.test_score.scores, self.test_labels)

    @cached_property
    def certificate(self) -> Certificate:
        """The certificate of invertibility."""
        return self.trained.flow.certify()

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Reconstruction of the first 200 test rows; the inverse is expensive, and a few rows suffice."""
        return reconstruct(self.trained.flow, self.test[:200], generator=self.generator())

    @cached_property
    def samples(self) -> Tensor:
        """Samples at temperature 1."""
        return self.draw(self.settings.samples or self.trained.recipe.evaluation.samples)

    def draw(self, n: int, temperature: float = 1.0) -> Tensor:
        """Draw n samples, with the same latent noise at all temperatures."""
        batch_size = self.trained.recipe.evaluation.batch_size
        return draw_samples(self.trained.flow, n, batch_size, self.generator(), None, temperature)

    @cached_property
    def latents(self) -> Tensor:
        """f(x) of the first test rows, on the flow's device."""
        rows = self.test[:200].to(self.trained.flow.device)
        with torch.no_grad():
            return self.trained.flow(rows, generator=self.generator())

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the training log up to the step of the weights; empty without a log."""
        return self.trained.log
