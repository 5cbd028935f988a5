"""`contraflow evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.sample import check_output
from contraflow.errors import ConfigurationError
from contraflow.evaluation import (
    LatentNormality,
    Scores,
    calibration_picture,
    latent_normality,
    latents,
    probability_integrals,
    reliability,
    report_classes,
    report_scores,
    score,
)
from contraflow.logdet import EVALUATION, Exact, LogDetEstimator
from contraflow.runs import Run, load_run
from contraflow.runs.build import make_generator
from contraflow.runs.estimated import score_by_estimates
from contraflow.runs.own_data import rows_to_judge
from contraflow.runs.samples import draw_samples

_SAMPLES = 5000  # of a table, for probability integrals


def evaluate(
    run: Path,
    data: str | None = None,
    root: str | None = None,
    split: Literal["test", "validation", "train"] | None = None,
    draws: int = 1,
    exact_terms: int = 20,
    exact: bool = False,
    batch_size: int = 200,
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    calibration: Path | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Score a trained flow on held-out data: log p(x) with its standard error.

    The score of images is in bits per dimension (lower is better), that of other data in nats (higher is better).
    Weights are first scaled down to certified norms. Where that changes a layer by 0.1 % or more (mixed and learned
    norms), the score with estimated norms, as in training, follows. For a hybrid flow and data with labels, accuracy,
    cross entropy and calibration error follow.

    Example: contraflow evaluate run --draws 4

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        data: score other data: the name of a data set (its test rows), or a file or folder (all rows). The columns of
            a table are matched by name.
        root: the folder that holds the named data sets.
        split: the part of the data to score: test, validation or train; test by default, and all rows of another
            file or folder.
        draws: number of independent estimates of log p(x) that are averaged for every row.
        exact_terms: number of terms of the power series that are always computed; the others are sampled.
        exact: compute dense Jacobians instead of the power series; for small dimensions.
        batch_size: rows computed at once. Another size gives other random numbers for the same seed.
        limit: score only this many rows.
        seed: seed of probes, truncations and dequantisation noise.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision to compute in, float32 or float64; that of the training by default.
        calibration: a .png file to draw: the reliability diagram of a classifier, and probability integral transforms
            (of the columns of a table against 5,000 samples, or of the latent variables of images). The latent
            variables are also tested for normality.
        force: overwrite the picture.
        json: print the result as JSON.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit}: it must be at least 1.")
    if calibration is not None:
        check_output(calibration, force, (".png",))
    trained = load_run(run, device=device, dtype=dtype)
    if root is not None:
        trained.recipe.data.root = root
    bar = ProgressBar()
    judged = rows_to_judge(trained, data, split, bar.note)
    estimator: LogDetEstimator = Exact() if exact else replace(EVALUATION, exact_terms=exact_terms)
    rows, labels = judged.rows[:limit], None if judged.labels is None else judged.labels[:limit]
    how: dict[str, Any] = {
        "estimator": estimator,
        "draws": draws,
        "batch_size": batch_size,
        "progress": lambda done, total: bar.phase("rows" if judged.split == "all" else judged.split, done, total),
    }
    with bar:
        scores = score(trained.flow, rows, generator=make_generator(trained.flow.device, seed), **how)
        as_trained = load_run(run, device=device, dtype=dtype, certified=False).flow
        by_estimates = score_by_estimates(
            trained.flow, as_trained, scores, rows, generator=make_generator(trained.flow.device, seed), **how
        )
    report, classified = report_scores(trained.flow, scores, estimator), report_classes(trained.flow, scores, labels)
    lines, values = (
        [str(report)],
        {**report.as_dict(), "data": judged.data, "split": judged.split, "step": trained.step},
    )
    values["by_estimates"] = None if by_estimates is None else by_estimates.as_dict()
    if by_estimates is not None and by_estimates.differs:
        lines.append(str(by_estimates))
    if classified is not None:
        lines.append(str(classified))
        values["classification"] = classified.as_dict()
    if calibration is not None:
        normality = _calibrate(calibration, trained, rows, labels, scores, seed)
        lines += [str(normality), f"calibration {calibration}"]
        values |= {"latent": normality.as_dict(), "calibration": str(calibration)}
    show("\n".join(lines), values, json)


def _calibrate(
    path: Path, trained: Run, rows: Tensor, labels: Tensor | None, scores: Scores, seed: int
) -> LatentNormality:
    """Draw the picture and test the latent variables; the noise does not depend on how the rows were scored."""
    flow, probabilities, classes = trained.flow, scores.class_probabilities, None
    if labels is not None and probabilities is not None:
        known = labels >= 0
        rows, labels = rows[known], labels[known]
        classes = reliability(probabilities[known], labels)
    generator = make_generator(flow.device, seed)
    z = latents(flow, rows, labels, generator=generator)
    if rows.ndim == 2:
        samples = draw_samples(flow, _SAMPLES, _SAMPLES, generator)
        uniform, names = probability_integrals(rows, samples), trained.columns
    else:
        uniform, names = torch.special.ndtr(z.double()).reshape(-1, 1), ("all latent dimensions",)
    calibration_picture(path, classes, uniform, names, _SAMPLES if rows.ndim == 2 else None)
    return latent_normality(z)
