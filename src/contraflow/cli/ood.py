"""`contraflow ood`."""

from __future__ import annotations

from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.sample import check_output
from contraflow.errors import ConfigurationError
from contraflow.evaluation import scores_histograms
from contraflow.runs import load_run
from contraflow.runs.ood import compare_with_others

_FEWEST = 20


def ood(
    run: Path,
    against: str = "noise,constant,black",
    background: Path | None = None,
    out: Path | None = None,
    root: str | None = None,
    limit: int = 500,
    batch: int = 10,
    draws: int = 1,
    exact_terms: int = 20,
    batch_size: int = 200,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    json: bool = False,
) -> None:
    """Tell other data from a flow's own: AUROC of log p(x), typicality, likelihood ratio, input complexity and classes.

    A score of 0.5 is chance; log p(x) alone often does worse, since simple images are likely under any flow. Other
    images are brought to the flow's shape and levels; what was done to them stands below the table.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        against: data sets with commas between: names, paths, and for images also noise, constant and black.
        background: run of the same flow trained with preprocessing.mutate=0.1 or so, for the likelihood ratio.
        out: .png to draw the histograms of every score to.
        root: folder of the named data sets.
        limit: most rows of every set, drawn at random.
        batch: rows that the typicality test looks at together, beside single ones.
        draws: independent estimates averaged for every row.
        exact_terms: terms of the series before the roulette.
        batch_size: rows at once; part of what decides which row gets which noise.
        seed: of rows, probes, truncations and dequantisation noise.
        device: cpu, cuda or cuda:N.
        force: overwrite `out`.
        json: print JSON.
    """
    names = list(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    if not names or limit < _FEWEST or batch < 1:
        raise ConfigurationError(
            f"against={against}, limit={limit}, batch={batch}: name at least one data set, and take at least {_FEWEST} "
            "rows of each, in batches of at least one."
        )
    if out is not None:
        check_output(out, force, (".png",))
    trained = load_run(run, device=device)
    other = None if background is None else load_run(background, device=device)
    if root is not None:
        trained.recipe.data.root = root
    with ProgressBar() as bar:
        found = compare_with_others(
            trained,
            names,
            background=other,
            limit=limit,
            batch=batch,
            draws=draws,
            exact_terms=exact_terms,
            batch_size=batch_size,
            seed=seed,
            watcher=bar,
        )
    if out is not None:
        scores_histograms(found.report, out)
    show(str(found), {**found.as_dict(), "step": trained.step}, json)
