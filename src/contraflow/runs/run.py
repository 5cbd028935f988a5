"""Runs a recipe from start to end: data, training with checkpoints and a log, the test score, a picture of samples.

The folder of a run holds checkpoints/, log.jsonl (a line every few steps), evaluation.json and samples.png; where norm
orders are learned, also norm-orders.png.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator

from contraflow.data import Dataset
from contraflow.errors import ConfigurationError, DataError, OutputError
from contraflow.evaluation import (
    ClassificationReport,
    EstimatedScore,
    LikelihoodReport,
    norm_orders_picture,
    report_classes,
    report_scores,
    score,
)
from contraflow.files import write_json
from contraflow.flow import Flow
from contraflow.lipschitz import largest_estimate, norm_orders
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs.build import (
    build_flow,
    check_columns,
    describe,
    load_data,
    load_data_for,
    make_preprocessing,
    recorded_fingerprint,
    training_rows,
)
from contraflow.runs.estimated import score_by_estimates
from contraflow.runs.log import TrainingLog
from contraflow.runs.own_data import check_unchanged
from contraflow.runs.progress import Silent, Watcher
from contraflow.runs.recipe import Recipe
from contraflow.runs.samples import draw_picture, draw_samples
from contraflow.training import Checkpoint, TrainingState, load_checkpoint, save_checkpoint, train
from contraflow.training.average import with_weights
from contraflow.training.loop import StepRecord


@dataclass(frozen=True)
class Outcome:
    """The result of a finished run.

    Attributes:
        report: the test score of the flow with certified norms.
        picture: of its samples.
        flow: with the weights for evaluation.
        classification: of a hybrid flow on labelled data.
        by_estimates: the test score with estimated norms, where rescaling to certified norms changes them.
    """

    report: LikelihoodReport
    picture: Path
    flow: Flow
    classification: ClassificationReport | None = None
    by_estimates: EstimatedScore | None = None


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    watcher: Watcher | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Train, evaluate and sample.

    Args:
        recipe: the experiment.
        out: the folder to write; it must not exist, unless `resume` or `force` is given.
        resume: continue from the newest checkpoint in `out`.
        force: delete `out` first.
        watcher: is told the progress.
        tensorboard: also write TensorBoard events to out/tensorboard.

    Raises:
        DataError: on `resume`, the data have changed since the run was trained on them.
        KeyboardInterrupt: after a checkpoint was written.
        TrainingError: the loss is not finite; the last good checkpoint is kept.
    """
    watcher = watcher or Silent()
    if tensorboard:
        _summary_writer()
    checkpoint = load_checkpoint(out) if resume else None
    data = (
        load_data(recipe.data, recipe.seed) if checkpoint is None else _data_to_resume_on(recipe, checkpoint)
    ).require_train()
    if checkpoint is not None:
        check_unchanged(recorded_fingerprint(checkpoint), data, out, _REMEDY, watcher.note)
    run = _Run(recipe, out, data, watcher)
    if checkpoint is not None:
        run.resume(checkpoint)
    else:
        run.begin(force)
    try:
        run.train(tensorboard)
        return run.finish()
    except KeyboardInterrupt:
        watcher.note(f"stopped at step {run.saved}; continue with: contraflow train --resume {out}")
        raise


def best_validation(recipe: Recipe, out: Path) -> float:
    """Train in a new folder, and never look at the test rows.

    Returns:
        The objective on validation rows, in nats a row, of the best averaged weights; -inf without validation rows.

    Raises:
        KeyboardInterrupt: after a checkpoint was written.
        TrainingError: the loss is not finite.
    """
    run = _Run(recipe, out, load_data(recipe.data, recipe.seed).require_train(), Silent())
    run.begin(force=False)
    run.train(tensorboard=False)
    return run.state.best_score


def _data_to_resume_on(recipe: Recipe, checkpoint: Checkpoint) -> Dataset:
    """The data, with the columns in the order that the run began with: the file may have another order by now."""
    return load_data_for(recipe.data.columns or checkpoint.config.get("columns"), recipe.data, recipe.seed)


#: What to do where the data have changed since the run was trained on them.
_REMEDY = "To resume, restore the data and the run's own data settings and seed; or train a new run with --out."


class _Interruption:
    """Remembers Ctrl-C, so that the current step is finished before training stops; a second Ctrl-C stops at once."""

    requested = False

    def __enter__(self) -> _Interruption:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)

    def _remember(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class _Run:
    def __init__(self, recipe: Recipe, out: Path, data: Dataset, watcher: Watcher) -> None:
        self.recipe, self.out, self.data, self.watcher = recipe, out, data, watcher
        self.preprocessing = make_preprocessing(recipe, data)
        self.flow = build_flow(recipe, data.event_shape, self.preprocessing)
        self.rows, self.labels = training_rows(recipe, data)
        recipe.objective.check(self.flow, self.labels)  # before anything is written
        self.config = describe(recipe, data, self.preprocessing)
        self.evaluation_estimator = recipe.evaluation.estimator
        self.state = TrainingState.begin(self.flow, recipe.training, recipe.seed)
        self.log = TrainingLog(out)
        self.saved = 0

    def begin(self, force: bool) -> None:
        """Make the folder, with a checkpoint of step 0. An empty folder may exist: a kill may have left it."""
        for line in check_columns(self.recipe, self.data, self.preprocessing):
            self.watcher.note(line)
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            if not force:
                raise OutputError(
                    f"{self.out} exists. Choose another --out, continue it with --resume {self.out}, "
                    "or delete it with --force."
                )
            if not (self.out / "checkpoints").is_dir():
                raise OutputError(
                    f"{self.out} is not the folder of a run, and --force deletes nothing else. Remove it by hand."
                )
            shutil.rmtree(self.out)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror}.") from error
        self.save()
        self.log.drop_after(0)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the newest checkpoint and drop the lines of the log after it.

        Raises:
            DataError: the number of training rows has changed in the middle of an epoch.
        """
        checkpoint.restore(self.state)
        drawn, rows = len(self.state.order), len(self.rows)
        # With a known fingerprint, more rows mean a larger data.limit; the next epoch then draws from all of them.
        if drawn > rows or (0 < drawn < rows and recorded_fingerprint(checkpoint) is None):
            raise DataError(
                f"{self.data.name}: {rows:,} training rows (data.limit={self.recipe.data.limit}), but {self.out} was "
                f"trained on {drawn:,}. {_REMEDY}"
            )
        self.log.drop_after(self.state.step)
        self.saved = self.state.step
        self.watcher.note(f"resumed {self.out} at step {self.state.step}")

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.out, self.state, self.config)
        self.saved = self.state.step

    def train(self, tensorboard: bool) -> None:
        """Take all remaining steps, with log, validation and checkpoints."""
        settings = self.recipe.training
        preprocessing = self.flow.preprocessing
        augment = preprocessing.augment if isinstance(preprocessing, ImagePreprocessing) else None
        board = _summary_writer()(str(self.out / "tensorboard")) if tensorboard else None
        records = train(self.state, self.rows, settings, self.recipe.objective, augment, self.labels)
        with _Interruption() as interruption, board or contextlib.nullcontext():
            for record in records:
                validated = self._validate(record.step)
                last = record.step == settings.steps
                if record.step % settings.log_every == 0 or last or validated is not None:
                    line = self._log_line(record, validated)
                    self.log.append(line)
                    self.watcher.step(line, settings.steps)
                    if board is not None:
                        _write_board(board, line)
                if record.step % settings.checkpoint_every == 0 or last or interruption.requested:
                    self.save()
                if interruption.requested:
                    raise KeyboardInterrupt

    def _validate(self, step: int) -> dict[str, float] | None:
        """Where validation is due, the terms of the objective under the averaged weights; the best weights are kept."""
        settings = self.recipe.training
        due = settings.validate_every and (step % settings.validate_every == 0 or step == settings.steps)
        if not due or not len(self.data.validation):
            return None
        weights = self.state.average.weights
        objective, labels = self.recipe.objective, self.data.validation_labels
        flow = with_weights(self.flow, weights)
        rows = self.data.validation[: settings.validation_size]
        terms = objective.validate(
            flow,
            rows,
            None if labels is None else labels[: len(rows)],
            estimator=self.evaluation_estimator,
            batch_size=self.recipe.evaluation.batch_size,
            # a generator of its own, so that validation changes nothing about training
            generator=Generator(flow.device).manual_seed(self.recipe.seed + 1),
        )
        value = objective.value(flow, terms)
        if value > self.state.best_score:
            self.state.best_score = value
            self.state.best = {name: weight.clone() for name, weight in weights.items()}
        return terms

    def _log_line(self, record: StepRecord, validated: dict[str, float] | None) -> dict[str, Any]:
        line: dict[str, Any] = {"step": record.step, "epoch": self.state.epoch, "loss": record.loss}
        line |= _in_units(self.flow, record.terms)
        line |= {f"validation {key}": value for key, value in _in_units(self.flow, validated or {}).items()}
        if record.evaluations:
            line["evaluations"] = record.evaluations
        line |= {
            "gradient_norm": record.gradient_norm,
            "lipschitz": largest_estimate(self.flow),
            "learning_rate": record.learning_rate,
            "seconds": record.seconds,
            "time": time.time(),
        }
        return line

    def finish(self) -> Outcome:
        """Score the test rows and draw samples, with the weights for evaluation."""
        settings = self.recipe.evaluation
        weights = self.state.evaluation_weights()
        flow = with_weights(self.flow, weights)
        generator = Generator(flow.device).manual_seed(self.recipe.seed)
        test = self.data.test[: settings.limit]
        how: dict[str, Any] = {
            "estimator": self.evaluation_estimator,
            "draws": settings.draws,
            "batch_size": settings.batch_size,
            "progress": lambda done, total: self.watcher.phase("test score", done, total),
        }
        scores = score(flow, test, generator=generator, **how)
        report = report_scores(flow, scores, self.evaluation_estimator)
        labels = self.data.test_labels
        classification = report_classes(flow, scores, None if labels is None else labels[: len(test)])
        values = report.as_dict()
        if classification is not None:
            values["classification"] = classification.as_dict()
        by_estimates = score_by_estimates(
            flow,
            with_weights(self.flow, weights, certified=False),
            scores,
            test,
            generator=Generator(flow.device).manual_seed(self.recipe.seed),
            **how,
        )
        values["by_estimates"] = None if by_estimates is None else by_estimates.as_dict()
        write_json(self.out / "evaluation.json", values)
        samples = draw_samples(flow, settings.samples, settings.batch_size, generator, self.watcher)
        picture = self.out / "samples.png"
        draw_picture(flow, samples, self.data, picture)
        if self.recipe.architecture.norms.kind.startswith("learned"):
            norm_orders_picture(norm_orders(flow), self.out / "norm-orders.png")
        return Outcome(report, picture, flow, classification, by_estimates)


def _in_units(flow: Flow, terms: Mapping[str, float]) -> dict[str, float]:
    """The terms with log p(x) in the usual units: bits per dimension for images, nats for other data."""
    others = dict(terms)
    if (log_prob := others.pop("log_prob", None)) is None:
        return others
    if len(flow.event_shape) == 3:
        return {"bits_per_dim": -log_prob / (flow.dimensions * math.log(2)), **others}
    return {"nats": log_prob, **others}


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigurationError("--tensorboard needs the extra: pip install 'contraflow[tensorboard]'.") from None
    return SummaryWriter


def _write_board(board: Any, line: dict[str, Any]) -> None:
    for key, value in line.items():
        if key not in ("step", "time", "epoch"):
            board.add_scalar(key, value, line["step"])
