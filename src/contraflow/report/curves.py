"""Training: true likelihood with an error band, gradient norm, time of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from contraflow.evaluation.pictures import span
from contraflow.logdet import PowerSeries
from contraflow.report.drawing import colour, drawing
from contraflow.report.page import figure, paragraph
from contraflow.report.run_data import Subject


def training(subject: Subject) -> list[str] | None:
    """The section; there is none without a log."""
    if any(len(series(subject.log, key)[0]) < 2 for key in (_key(subject), "gradient_norm", "seconds")):
        return None
    recipe = subject.trained.recipe.training
    batch = min(recipe.batch_size, len(subject.data.train[: subject.trained.recipe.data.limit]))
    return [
        paragraph(
            f"{subject.trained.step:,} steps of {batch:,} rows, learning rate {recipe.learning_rate:g} "
            f"({recipe.schedule}). {_truthfulness(subject)}"
        ),
        likelihood_curve(subject),
        health_curves(subject),
    ]


def _key(subject: Subject) -> str:
    """What the log calls the likelihood."""
    return "bits_per_dim" if subject.images is not None else "nats"


def _truthfulness(subject: Subject) -> str:
    if isinstance(subject.trained.recipe.estimator, PowerSeries):
        return "The series is cut after a fixed number of terms, so the curve is biased: trust the test score, not it."
    return "Each value is an unbiased estimate of the batch's true likelihood, so the curve is the likelihood itself."


def likelihood_curve(subject: Subject) -> str:
    """Batch by batch, its running mean with a band, validation, and the test score."""
    steps, values = series(subject.log, _key(subject))
    window = window_of(len(values))
    centre, mean, error = running_mean(steps, values, window)
    test, images = subject.test_score.report, subject.images is not None
    with drawing("likelihood-curve", f"{test.unit} over training steps", height=3.4) as picture:
        axes = picture.figure.subplots()
        axes.plot(steps, values, ".", markersize=3, color=colour("model"), alpha=0.4, label="a batch")
        axes.fill_between(centre, mean - 2 * error, mean + 2 * error, color=colour("model"), alpha=0.2, linewidth=0)
        axes.plot(centre, mean, color=colour("model"), label="running mean ± 2 standard errors")
        validation = series(subject.log, f"validation {_key(subject)}")
        if len(validation[0]):
            axes.plot(*validation, "o", markersize=4, color=colour("held"), label="validation, averaged weights")
        at_the_end = [test.value] if math.isfinite(test.value) else []
        for value in at_the_end:
            axes.axhline(value, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)), label="test, at the end")
        # the worst of the first steps may be beyond every scale
        low, high = np.quantile(np.append(mean, at_the_end), [0, 0.97] if images else [0.03, 1])
        axes.set(xlabel="step", ylabel=test.unit, ylim=span(low, high, 0.12))
        axes.legend(loc="best")
    better = "lower" if images else "higher"
    return figure(
        picture.svg,
        f"Likelihood while training, {better} is better.",
        f"Dots are single batches, every {_spacing(steps)} steps; the line is the mean of {window} of them, its band "
        "two standard errors. Look for a curve that has levelled off, and for a gap: validation and test far from the "
        "training curve mean that the flow has begun to learn its training rows by heart. The first steps may lie "
        "beyond the frame.",
    )


def health_curves(subject: Subject) -> str:
    """Gradient norm and seconds a step, each with its running median."""
    clip = subject.trained.recipe.training.gradient_clip
    with drawing("health-curves", "gradient norm and seconds a step over training steps", height=2.5) as picture:
        left, right = picture.figure.subplots(1, 2)
        for axes, key, title in ((left, "gradient_norm", "gradient norm"), (right, "seconds", "seconds a step")):
            steps, values = series(subject.log, key)
            axes.plot(steps, values, ".", markersize=3, color=colour("data"), alpha=0.4)
            axes.plot(*running_median(steps, values, window_of(len(values))), color=colour("data"))
            axes.set(title=title, xlabel="step", ylim=(0, 1.3 * float(np.quantile(values, 0.98)) or 1.0))
        left.axhline(clip, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)))
    seconds = series(subject.log, "seconds")[1]
    return figure(
        picture.svg,
        "Gradient norm and time of a step.",
        f"Lines are running medians. Gradients above {clip:g} (dashed) are clipped: a norm that stays above it, "
        f"or grows late in training, asks for a smaller learning rate. A step took {np.median(seconds):.2g} s in the "
        f"median and {np.quantile(seconds, 0.95):.2g} s at the 95th percentile.",
    )


def series(log: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of those lines of the log that have a finite number for a key."""
    found = [
        (line["step"], line[key]) for line in log if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def window_of(n: int) -> int:
    """Values that a running mean is over: a thirtieth of them, and at least 5 where there are as many."""
    return max(1, min(n, max(5, n // 30)))


def running_mean(steps: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean step, mean value and standard error of that mean, over every run of `window` neighbours.

    >>> running_mean(np.array([1.0, 2, 3]), np.array([0.0, 2, 4]), 2)
    (array([1.5, 2.5]), array([1., 3.]), array([1., 1.]))
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    centre = np.lib.stride_tricks.sliding_window_view(steps, window).mean(axis=1)
    error = windows.std(axis=1, ddof=1) / math.sqrt(window) if window > 1 else np.zeros(len(windows))
    return centre, windows.mean(axis=1), error


def running_median(steps: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean step and median value of every run of `window` neighbours."""
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    return np.lib.stride_tricks.sliding_window_view(steps, window).mean(axis=1), np.median(windows, axis=1)


def _spacing(steps: np.ndarray) -> str:
    return f"{np.median(np.diff(steps)):g}"
