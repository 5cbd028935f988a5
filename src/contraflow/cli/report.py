"""`contraflow report`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.sample import check_output
from contraflow.report import ReportSettings, RunData, write_report
from contraflow.runs import load_run
from contraflow.runs.own_data import load_own_data


def report(
    run: Path,
    out: Path = Path("report.html"),
    rows: int | None = None,
    samples: int | None = None,
    other: str | None = None,
    root: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Write one HTML file that shows a trained flow: curves, likelihoods, calibration, classes, samples, certificate.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        out: the file, .html; it needs no other file and no network.
        rows: rows of each split that are scored, at most; 200 images or 10,000 others when not given.
        samples: samples to draw; as many as the recipe says when not given.
        other: another data set of the same shape, a name or a path, to score beside the run's own.
        root: folder of the named data sets.
        seed: of everything random.
        device: cpu, cuda or cuda:N.
        dtype: precision to compute in; as trained when not given.
        force: overwrite `out`.
        json: print JSON.
    """
    check_output(out, force, (".html",))
    settings = ReportSettings(rows, samples, other, root, seed)
    trained = load_run(run, device=device, dtype=dtype)
    if root is not None:
        trained.recipe.data.root = root
    with ProgressBar() as bar:
        data = RunData(trained, load_own_data(trained, bar.note), settings, bar.phase)
        write_report(data, out)
    score = data.test_score.report
    show(f"report {out}\ntest {score}", {**score.as_dict(), "report": str(out), "step": trained.step}, json)
