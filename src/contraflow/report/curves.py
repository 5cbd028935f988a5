"""Training: likelihood with an error band, gradient norm, time per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from contraflow.evaluation.figures import colour, svg_figure
from contraflow.evaluation.pictures import span
from contraflow.logdet import PowerSeries
from contraflow.report.page import figure, paragraph
from contraflow.report.run_data import RunData


def training(run: RunData) -> list[str] | None:
    """The section; ``None`` without a training log."""
    if any(len(series(run.log, key)[0]) < 2 for key in (_key(run), "gradient_norm", "seconds")):
        return None
    recipe = run.trained.recipe.training
    batch = min(recipe.batch_size, len(run.data.train[: run.trained.recipe.data.limit]))
    return [
        paragraph(
            f"{run.trained.step:,} steps of {batch:,} rows, learning rate {recipe.learning_rate:g} "
            f"({recipe.schedule}). {_bias(run)}"
        ),
        likelihood_curve(run),
        health_curves(run),
    ]


def _key(run: RunData) -> str:
    """The name of the likelihood in the log."""
    return "bits_per_dim" if run.images is not None else "nats"


def _bias(run: RunData) -> str:
    if isinstance(run.trained.recipe.estimator, PowerSeries):
        return "The series is truncated after a fixed number of terms, so the curve is biased; the test score is not."
    return "Each value is an unbiased estimate of the likelihood of its batch."


def likelihood_curve(run: RunData) -> str:
    """The likelihood of batches, its running mean with an error band, validation scores, and the test score."""
    steps, values = series(run.log, _key(run))
    window = window_of(len(values))
    centre, mean, error = running_mean(steps, values, window)
    test, images = run.test_score.report, run.images is not None
    with svg_figure("likelihood-curve", f"{test.unit} against training steps", height=3.4) as picture:
        axes = picture.figure.subplots()
        axes.plot(steps, values, ".", markersize=3, color=colour("model"), alpha=0.4, label="batch")
        axes.fill_between(centre, mean - 2 * error, mean + 2 * error, color=colour("model"), alpha=0.2, linewidth=0)
        axes.plot(centre, mean, color=colour("model"), label="running mean ± 2 standard errors")
        validation = series(run.log, f"validation {_key(run)}")
        if len(validation[0]):
            axes.plot(*validation, "o", markersize=4, color=colour("held"), label="validation, averaged weights")
        final = [test.value] if math.isfinite(test.value) else []
        for value in final:
            axes.axhline(value, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)), label="test, after training")
        # The first steps may be far worse than all others, so the worst 3 % are outside the frame.
        low, high = np.quantile(np.append(mean, final), [0, 0.97] if images else [0.03, 1])
        axes.set(xlabel="step", ylabel=test.unit, ylim=span(low, high, 0.12))
        axes.legend(loc="best")
    better = "lower" if images else "higher"
    return figure(
        picture.svg,
        f"Likelihood during training ({better} is better).",
        f"Dots are single batches, one every {np.median(np.diff(steps)):g} steps; the line is the mean of {window} of "
        "them, its band two standard errors wide on each side. Check whether the curve has levelled off, and whether "
        "there is a gap: validation and test scores far from the training curve mean that the flow overfits. The "
        "first steps may be outside the frame.",
    )


def health_curves(run: RunData) -> str:
    """Gradient norm and seconds per step, each with its running median."""
    clip = run.trained.recipe.training.gradient_clip
    with svg_figure(
        "health-curves", "gradient norm and seconds per step against training steps", height=2.5
    ) as picture:
        left, right = picture.figure.subplots(1, 2)
        for axes, key, title in ((left, "gradient_norm", "gradient norm"), (right, "seconds", "seconds per step")):
            steps, values = series(run.log, key)
            axes.plot(steps, values, ".", markersize=3, color=colour("data"), alpha=0.4)
            axes.plot(*running_median(steps, values, window_of(len(values))), color=colour("data"))
            axes.set(title=title, xlabel="step", ylim=(0, 1.3 * float(np.quantile(values, 0.98)) or 1.0))
        left.axhline(clip, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)))
    seconds = series(run.log, "seconds")[1]
    return figure(
        picture.svg,
        "Gradient norm and time per step.",
        f"Lines are running medians. Gradients with a norm above {clip:g} (dashed) are clipped. If the norm stays "
        "above this value, or grows late in training, try a smaller learning rate. The median time per step is "
        f"{np.median(seconds):.2g} s, the 95th percentile {np.quantile(seconds, 0.95):.2g} s.",
    )


def series(log: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines of the log that have a finite number for a key."""
    points = [
        (line["step"], line[key]) for line in log if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def window_of(n: int) -> int:
    """Window of a running mean of n values: a thirtieth of them, but at least 5 if there are as many."""
    return max(1, min(n, max(5, n // 30)))


def running_mean(steps: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean step, mean value and standard error of this mean, over all windows of consecutive values.

    >>> running_mean(np.array([1.0, 2, 3]), np.array([0.0, 2, 4]), 2)
    (array([1.5, 2.5]), array([1., 3.]), array([1., 1.]))
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    centre = np.lib.stride_tricks.sliding_window_view(steps, window).mean(axis=1)
    error = windows.std(axis=1, ddof=1) / math.sqrt(window) if window > 1 else np.zeros(len(windows))
    return centre, windows.mean(axis=1), error


def running_median(steps: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean step and median value over all windows of consecutive values."""
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    return np.lib.stride_tricks.sliding_window_view(steps, window).mean(axis=1), np.median(windows, axis=1)
