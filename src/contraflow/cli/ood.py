"""`contraflow ood`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Generator, Tensor

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.sample import check_output
from contraflow.data import OtherRows, draw_rows, load_other_rows
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import DetectionReport, Evidence, gather_evidence, report_detection, scores_histograms
from contraflow.flow import Flow
from contraflow.logdet import EVALUATION
from contraflow.recipes import TrainedFlow, load_run
from contraflow.recipes.build import load_data, make_generator
from contraflow.recipes.writing import replacing

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
        against: data sets with commas between: names, paths, and for images also noise, constant and
            black.
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
    other = None if background is None else _background(background, trained, device)
    if root is not None:
        trained.recipe.data.root = root
    drawn = Generator().manual_seed(seed)
    sets, held_out = _sets(trained, names, limit, drawn)
    for one in sets:
        if len(one.rows) < 2 * batch:
            raise ConfigurationError(
                f"batch={batch}, but {one.name} has {len(one.rows)} rows: two batches at least are needed of each set."
            )
    generator = make_generator(trained.flow.device, seed)
    estimator = replace(EVALUATION, exact_terms=exact_terms)
    rest = {"estimator": estimator, "draws": draws, "batch_size": batch_size, "generator": generator}
    with ProgressBar() as bar:

        def gather(name: str, rows: Tensor, background: Flow | None) -> Evidence:
            def phase(done: int, total: int) -> None:
                bar.phase(name, done, total)

            return gather_evidence(trained.flow, rows, background=background, progress=phase, **rest)  # type: ignore[arg-type]

        typical = gather("held out", held_out, None).log_prob
        evidence = {one.name: gather(one.name, one.rows, other) for one in sets}
    report = report_detection(
        sets[0].name, evidence, typical, batches=(1, batch) if batch > 1 else (1,), generator=drawn
    )
    if out is not None:
        with replacing(out) as temporary:
            scores_histograms(report, temporary)
    values = {**report.as_dict(), "changes": {one.name: one.change for one in sets}, "step": trained.step}
    show(f"{report}\n\n{_remarks(report, sets)}", values, json)


def _background(run: Path, trained: TrainedFlow, device: str) -> Flow:
    """The background flow.

    Raises:
        ShapeError: it takes other data.
    """
    other = load_run(run, device=device)
    if (other.flow.event_shape, other.levels) != (trained.flow.event_shape, trained.levels):
        raise ShapeError(
            f"{run} takes data of shape {other.flow.event_shape} with {other.levels} levels, {trained.path} of "
            f"{trained.flow.event_shape} with {trained.levels}: a likelihood ratio needs the same."
        )
    return other.flow


def _sets(trained: TrainedFlow, names: list[str], limit: int, generator: Generator) -> tuple[list[OtherRows], Tensor]:
    """The own test rows first, then the others; and own rows that the flow was not trained on, apart."""
    own = load_data(trained.recipe.data, trained.recipe.seed)
    sets = [OtherRows(own.name, draw_rows(own.test, limit, generator))]
    held_out = draw_rows(own.validation, limit, generator)
    for name in names:
        if name == own.name:
            raise ConfigurationError(f"against={name}: the flow was trained on that; name other data.")
        rest = {"root": trained.recipe.data.root, "columns": trained.columns, "generator": generator}
        sets.append(load_other_rows(name, trained.flow.event_shape, trained.levels, limit, **rest))  # type: ignore[arg-type]
    return sets, held_out


def _remarks(report: DetectionReport, sets: list[OtherRows]) -> str:
    lines = []
    for one in sets:
        mean, error = report.log_prob[one.name]
        rejected = ", ".join(f"{share:.0%} ({test})" for test, share in report.rejected[one.name].items())
        change = f"; {one.change}" if one.change else ""
        lines.append(
            f"{one.name}: {len(one.rows)} rows, log p(x) {mean:.1f} ± {error:.1f} nats, rejected as atypical at 5 %: "
            f"{rejected}{change}."
        )
    return "\n".join(lines)
