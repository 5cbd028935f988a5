"""Run an experiment by its name and write its page."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from contraflow.errors import OutputError, unknown_name
from contraflow.runs.compare import Watch
from contraflow.runs.progress import Silent
from experiments.paper.catalogue import EXPERIMENTS
from experiments.paper.page import as_dict, write_page
from experiments.paper.plan import Plan


def reproduce(
    name: str,
    *,
    budget: str = "reduced",
    seeds: int | None = None,
    out: Path = Path("reproduction"),
    root: str | None = None,
    watch: Watch = lambda name: nullcontext(Silent()),
) -> tuple[str, dict[str, Any]]:
    """Run an experiment, write its page, and return the page and its values.

    Args:
        name: a name in `EXPERIMENTS`.
        budget: reduced, full, or the seconds of processor time of the training steps of each run.
        seeds: number of seeds; the experiment's own number by default.
        out: folder of the page, the pictures and the runs.
        root: folder of the named data sets.
        watch: makes the progress display of a run from its name.

    Raises:
        ConfigurationError: unknown name or budget, or fewer than one seed.
        OutputError: `out` cannot be written, or contains a run of another recipe.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    experiment = EXPERIMENTS[name]
    setting = experiment.full if budget == "full" else experiment.reduced
    plan = Plan(name, setting, budget, setting.seeds if seeds is None else seeds, out, root, watch)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}.") from error
    result = experiment.run(plan)
    return write_page(experiment, plan, result), as_dict(experiment, plan, result)
