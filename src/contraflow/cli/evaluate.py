"""`contraflow evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import evaluate_likelihood
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
    with ProgressBar() as bar:
        report = evaluate_likelihood(
            trained.flow,
            getattr(dataset, split)[:limit],
            estimator=estimator,
            draws=draws,
            batch_size=batch_size,
            generator=make_generator(trained.flow.device, seed),
            progress=lambda done, total: bar.phase(split, done, total),
        )
    show(str(report), {**report.as_dict(), "data": settings.name, "split": split, "step": trained.step}, json)
