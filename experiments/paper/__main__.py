"""`python -m experiments.paper`: the names, or one table or figure by its name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ContraflowError
from experiments.paper import EXPERIMENTS, reproduce


def main(argv: Sequence[str] | None = None) -> int:
    """Run a table or figure of the Residual Flows paper, and set the outcome beside the paper's; list them all.

    Writes OUT/NAME.md, NAME.json, pictures and an index; the runs are ordinary ones in OUT/runs, and what is there
    already is not trained again. The exit code is 0, or 2 for an error, said in one line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper",
        description="Run a table or figure of the Residual Flows paper, and set the outcome beside the paper's.",
    )
    parser.add_argument("name", nargs="?", help="table or figure; all are listed when not given")
    parser.add_argument(
        "--budget",
        default="reduced",
        help="reduced (under an hour on two CPU cores), full (the paper's, for a GPU), or seconds of processor time "
        "for the training steps of every run",
    )
    parser.add_argument("--seeds", type=int, help="runs of each setting; the experiment's own number when not given")
    parser.add_argument("--out", type=Path, default=Path("reproduction"), help="folder of page, pictures and runs")
    parser.add_argument(
        "--data", help="folder of the named data sets; $CONTRAFLOW_DATA or ~/.cache/contraflow when not given"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    if given.name is None:
        about = {name: experiment.about for name, experiment in EXPERIMENTS.items()}
        show("\n".join(f"{name:16s} {text}" for name, text in about.items()), about, given.json)
        return 0
    try:
        text, values = reproduce(
            given.name,
            budget=given.budget,
            seeds=given.seeds,
            out=given.out,
            root=given.data,
            watch=ProgressBar.named,
        )
    except ContraflowError as error:
        print(f"experiments.paper: error: {error}", file=sys.stderr)
        return 2
    show(text, values, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
