"""`contraflow evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from contraflow.architectures import HybridFlow
from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import evaluate_classification, evaluate_likelihood
from contraflow.logdet import EVALUATION, Exact, LogDetEstimator
from contraflow.recipes import load_run
from contraflow.recipes.build import load_data, make_generator


def evaluate(
    run: Path,
    data: str | None = None,
    root: str | None = None,
    split: Literal["test", "validation", "train"] = "test",
    draws: int = 1,
    exact_terms: int = 20,
    exact: bool = False,
    batch_size: int = 200,
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    json: bool = False,
) -> None:
    """Score a trained flow on held-out data: bits/dim of images, nats of others, with a standard error.

    Of a hybrid flow, where the data have labels, accuracy, cross entropy and calibration error follow.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        data: other data than the run was trained on: a name or a path.
        root: folder of the named data sets.
        split: which part of the data.
        draws: independent estimates averaged for every row.
        exact_terms: terms of the series before the roulette.
        exact: dense Jacobians instead of the roulette, for small dimensions.
        batch_size: rows at once; part of what decides which row gets which noise.
        limit: score only so many rows.
        seed: of probes, truncations and dequantisation noise.
        device: cpu, cuda or cuda:N.
        dtype: precision to compute in; as trained when not given.
        json: print JSON.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit}: it must be at least 1.")
    trained = load_run(run, device=device, dtype=dtype)
    settings = trained.recipe.data
    if data is not None:
        settings.name, settings.columns = data, None
    if root is not None:
        settings.root = root
    dataset = load_data(settings, trained.recipe.seed)
    if dataset.event_shape != trained.flow.event_shape:
        raise ShapeError(
            f"{run} takes data of shape {trained.flow.event_shape}; {settings.name} has {dataset.event_shape}."
        )
    estimator: LogDetEstimator = Exact() if exact else replace(EVALUATION, exact_terms=exact_terms)
    rows, generator = getattr(dataset, split)[:limit], make_generator(trained.flow.device, seed)
    labels = getattr(dataset, f"{split}_labels")
    classified = None
    with ProgressBar() as bar:
        noise: dict[str, Any] = {"draws": draws, "batch_size": batch_size, "generator": generator}
        report = evaluate_likelihood(
            trained.flow,
            rows,
            estimator=estimator,
            progress=lambda done, total: bar.phase(split, done, total),
            **noise,
        )
        if isinstance(trained.flow, HybridFlow) and labels is not None:
            classified = evaluate_classification(trained.flow, rows, labels[:limit], **noise)
    values = {**report.as_dict(), "data": settings.name, "split": split, "step": trained.step}
    if classified is not None:
        values["classification"] = classified.as_dict()
    show(f"{report}\n{classified}" if classified is not None else str(report), values, json)
