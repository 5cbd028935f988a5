"""`contraflow score`."""

from __future__ import annotations

import csv
import io
import json as json_module
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO

from contraflow.cli.console import ProgressBar
from contraflow.cli.sample import check_output
from contraflow.data import read_rows
from contraflow.errors import ShapeError
from contraflow.evaluation import Scores
from contraflow.evaluation import score as score_rows
from contraflow.files import write_text
from contraflow.logdet import EVALUATION, Exact, LogDetEstimator
from contraflow.runs import load_run
from contraflow.runs.build import make_generator


def score(
    run: Path,
    file: Path,
    out: Path | None = None,
    draws: int = 4,
    target_error: float | None = None,
    budget: int = 1000,
    exact_terms: int = 20,
    exact: bool = False,
    batch_size: int = 200,
    seed: int = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Print log p(x) in nats, with its standard error, for every row of a table or image of a folder.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        file: CSV, Parquet, .npy, .npz, or a folder of images, which are cropped at the centre and scaled to the run's;
            columns are matched by name.
        out: a .csv file to write; standard output when not given.
        draws: independent estimates averaged for every row; the standard error needs two.
        target_error: wanted standard error of every row in nats; sets the number of draws row by row.
        budget: most draws of a row under a target error; rows that did not reach it are counted at the end.
        exact_terms: terms of the series before the roulette.
        exact: dense Jacobians instead of the roulette, for small dimensions.
        batch_size: rows at once; part of what decides which row gets which noise.
        seed: of probes, truncations and dequantisation noise.
        device: cpu, cuda or cuda:N.
        dtype: precision to compute in; as trained when not given.
        force: overwrite `out`.
        json: a JSON object a row instead of CSV; null where log p(x) is below the range of the dtype.
    """
    if out is not None:
        check_output(out, force, (".csv", ".json", ".jsonl"))
    trained = load_run(run, device=device, dtype=dtype)
    shape = trained.flow.event_shape
    pictures = len(shape) == 3 and file.is_dir()
    bar = ProgressBar()
    rows = read_rows(
        file,
        columns=trained.columns,
        size=(shape[1], shape[2]) if pictures else None,
        grey=pictures and shape[0] == 1,
        note=bar.note,
    )
    if tuple(rows.shape[1:]) != shape:
        raise ShapeError(f"{file}: rows of shape {tuple(rows.shape[1:])}, where {run} takes {shape}.")
    estimator: LogDetEstimator = Exact() if exact else replace(EVALUATION, exact_terms=exact_terms)
    with bar:
        scores = score_rows(
            trained.flow,
            rows,
            estimator=estimator,
            draws=draws,
            target_error=target_error,
            budget=budget,
            batch_size=batch_size,
            generator=make_generator(trained.flow.device, seed),
            progress=lambda done, total: bar.phase("rows", done, total),
        )
        missed = int((~scores.reached).sum())
        if missed:
            bar.note(f"{missed} of {len(rows)} rows did not reach a standard error of {target_error} in {budget} draws")
    if out is None:
        _write(scores, sys.stdout, json)
        return
    text = io.StringIO()
    _write(scores, text, json)
    write_text(out, text.getvalue())


def _write(scores: Scores, stream: TextIO, as_json: bool) -> None:
    pairs = zip(scores.log_prob.tolist(), scores.standard_error.tolist(), strict=True)
    if as_json:
        for row, pair in enumerate(pairs):
            # JSON has no infinity and no NaN
            value, error = (one if math.isfinite(one) else None for one in pair)
            stream.write(json_module.dumps({"row": row, "log_prob": value, "standard_error": error}) + "\n")
        return
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "log_prob", "standard_error"))
    writer.writerows((row, f"{value:.6f}", f"{error:.6f}") for row, (value, error) in enumerate(pairs))
