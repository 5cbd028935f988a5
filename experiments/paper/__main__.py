"""`python -m experiments.paper`: list all experiments, or run one of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ContraflowError
from experiments.paper import EXPERIMENTS, reproduce


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce a table or figure of the Residual Flows paper and compare it with the published one.

    Writes OUT/NAME.md, NAME.json, pictures and an index. Flows are trained as ordinary runs in OUT/runs, and finished
    runs are used again. The exit code is 0, or 2 for an error, reported in one line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper",
        description="Reproduce a table or figure of the Residual Flows paper and compare it with the published one.",
    )
    parser.add_argument("name", nargs="?", help="of the experiment; all are listed by default")
    parser.add_argument(
        "--budget",
        default="reduced",
        help="reduced (for a CPU), full (the paper's setting, for a GPU), or the seconds of processor time of the "
        "training steps of each run",
    )
    parser.add_argument("--seeds", type=int, help="number of seeds; the experiment's own number by default")
    parser.add_argument(
        "--out", type=Path, default=Path("reproduction"), help="folder of the page, the pictures and the runs"
    )
    parser.add_argument(
        "--data", help="folder of the named data sets; $CONTRAFLOW_DATA or ~/.cache/contraflow by default"
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
