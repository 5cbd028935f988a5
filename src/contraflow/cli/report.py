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
    """Write one HTML page about a trained flow: training curves, likelihoods, calibration, samples, certificate.

    The page is a single file that loads nothing from elsewhere.

    Example: contraflow report run --out report.html

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        out: the .html file to write.
        rows: number of rows of each split that are scored, at most; by default 200 images, or 10,000 rows of a table.
        samples: number of samples; that of the recipe by default.
        other: another data set of the same shape, by name or path, whose likelihoods are shown beside the run's own.
        root: the folder that holds the named data sets.
        seed: seed of everything random.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision to compute in, float32 or float64; that of the training by default.
        force: overwrite the file.
        json: print the result as JSON.
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
