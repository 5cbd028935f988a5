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
    """Detect out-of-distribution data, and print how well each score separates other data from the flow's own.

    The scores are log p(x), a typicality test, a likelihood ratio (with --background), input complexity and, for a
    hybrid flow, class probabilities. Each is judged by its AUROC: 1 is perfect, 0.5 is chance; log p(x) alone is often
    below 0.5, since simple images are likely under any flow. Images of other sizes are cropped, scaled and reduced to
    the levels of the flow's own; lines below the table say how.

    Example: contraflow ood run --against fashion_mnist,noise

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        against: other data, separated by commas: names of data sets or paths; for images also noise, constant and
            black.
        background: a run of the same flow trained with preprocessing.mutate=0.1, for the likelihood ratio.
        out: a .png file to draw histograms of every score.
        root: the folder that holds the named data sets.
        limit: number of rows of every set at most, drawn at random.
        batch: number of rows that the typicality test judges together; it also judges single rows.
        draws: number of independent estimates of log p(x) that are averaged for every row.
        exact_terms: number of terms of the power series that are always computed; the others are sampled.
        batch_size: rows computed at once. Another size gives other random numbers for the same seed.
        seed: seed of the choice of rows, probes, truncations and dequantisation noise.
        device: where to compute: cpu, cuda or cuda:N.
        force: overwrite the picture.
        json: print the result as JSON.
    """
    names = list(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    if not names or limit < _FEWEST or batch < 1:
        raise ConfigurationError(
            f"against={against}, limit={limit}, batch={batch}: expected at least one data set, a limit of at least "
            f"{_FEWEST} rows, and batches of at least one row."
        )
    if out is not None:
        check_output(out, force, (".png",))
    trained = load_run(run, device=device)
    background_run = None if background is None else load_run(background, device=device)
    if root is not None:
        trained.recipe.data.root = root
    with ProgressBar() as bar:
        detection = compare_with_others(
            trained,
            names,
            background=background_run,
            limit=limit,
            batch=batch,
            draws=draws,
            exact_terms=exact_terms,
            batch_size=batch_size,
            seed=seed,
            watcher=bar,
        )
    if out is not None:
        scores_histograms(detection.report, out)
    show(str(detection), {**detection.as_dict(), "step": trained.step}, json)
