"""`contraflow reproduce`."""

from __future__ import annotations

from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.reproduction import EXPERIMENTS
from contraflow.reproduction import reproduce as run_experiment


def reproduce(
    name: str | None = None,
    budget: str = "reduced",
    seeds: int | None = None,
    out: Path = Path("reproduction"),
    data: str | None = None,
    json: bool = False,
) -> None:
    """Run a table or figure of the Residual Flows paper, and set the outcome beside the paper's; list them all.

    Writes OUT/NAME.md, NAME.json, pictures and an index; the runs are ordinary ones in OUT/runs, and what is there
    already is not trained again.

    Args:
        name: table or figure; all are listed when not given.
        budget: reduced (under an hour on two CPU cores), full (the paper's, for a GPU), or seconds of processor time
            for the training steps of every run.
        seeds: runs of each setting; the experiment's own number when not given.
        out: folder of page, pictures and runs.
        data: folder of the named data sets; $CONTRAFLOW_DATA or ~/.cache/contraflow when not given.
        json: print JSON.
    """
    if name is None:
        about = {key: one.about for key, one in EXPERIMENTS.items()}
        show("\n".join(f"{key:16s} {text}" for key, text in about.items()), about, json)
        return
    text, values = run_experiment(name, budget=budget, seeds=seeds, out=out, root=data, watch=ProgressBar.named)
    show(text, values, json)
