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
    """Print log p(x) in nats, with its standard error, for every row of a table or every image of a folder.

    Example: contraflow score run new.csv --target-error 0.05 --out scores.csv

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        file: a CSV, Parquet, .npy or .npz file, or a folder of images, which are cropped at the centre and scaled to
            the size of the flow's. The columns of a table are matched by name.
        out: the file to write, .csv, .json or .jsonl; standard output by default.
        draws: number of independent estimates of log p(x) that are averaged for every row; a standard error needs two.
        target_error: draw for each row until its standard error, in nats, is below this.
        budget: number of draws of a row at most, with --target-error. Rows that did not reach it are counted at the
            end.
        exact_terms: number of terms of the power series that are always computed; the others are sampled.
        exact: compute dense Jacobians instead of the power series; for small dimensions.
        batch_size: rows computed at once. Another size gives other random numbers for the same seed.
        seed: seed of probes, truncations and dequantisation noise.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision to compute in, float32 or float64; that of the training by default.
        force: overwrite the file.
        json: print a JSON object for each row instead of CSV; null where log p(x) is below the range of the dtype.
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
        raise ShapeError(f"{file}: rows have shape {tuple(rows.shape[1:])}, but {run} takes {shape}.")
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
        unreached = int((~scores.reached).sum())
        if unreached:
            bar.note(
                f"{unreached} of {len(rows)} rows did not reach a standard error of {target_error} in {budget} draws"
            )
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
            value, error = (number if math.isfinite(number) else None for number in pair)
            stream.write(json_module.dumps({"row": row, "log_prob": value, "standard_error": error}) + "\n")
        return
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "log_prob", "standard_error"))
    writer.writerows((row, f"{value:.6f}", f"{error:.6f}") for row, (value, error) in enumerate(pairs))
