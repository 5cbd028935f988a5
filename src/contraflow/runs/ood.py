"""How well a trained flow detects out-of-distribution data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from contraflow.data import OtherRows, draw_rows, load_other_rows
from contraflow.data.formats.tables import Note, quoted
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation import DetectionReport, Evidence, gather_evidence, report_detection
from contraflow.flow import Flow
from contraflow.logdet import EVALUATION
from contraflow.runs.build import Run, make_generator
from contraflow.runs.own_data import load_own_data
from contraflow.runs.progress import Silent, Watcher


@dataclass(frozen=True)
class Detection:
    """How well a flow tells other data from its own, and how those data were prepared.

    Attributes:
        report: the scores, and what share of each set they detect.
        sets: the flow's own test rows first, then the other data.
    """

    report: DetectionReport
    sets: tuple[OtherRows, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.report.as_dict(), "changes": {rows.name: rows.change for rows in self.sets}}

    def __str__(self) -> str:
        return f"{self.report}\n\n{self.remarks()}"

    def remarks(self) -> str:
        """A line for every set: its log p(x), the share rejected as atypical, and how its rows were prepared."""
        lines = []
        for rows in self.sets:
            mean, error = self.report.log_prob[rows.name]
            rejected = ", ".join(f"{share:.0%} ({test})" for test, share in self.report.rejected[rows.name].items())
            change = f"; {rows.change}" if rows.change else ""
            lines.append(
                f"{rows.name}: {len(rows.rows)} rows, log p(x) {mean:.1f} ± {error:.1f} nats, rejected as atypical at "
                f"5 %: {rejected}{change}."
            )
        return "\n".join(lines)


def compare_with_others(
    trained: Run,
    against: Sequence[str],
    *,
    background: Run | None = None,
    limit: int = 500,
    batch: int = 10,
    draws: int = 1,
    exact_terms: int = 20,
    batch_size: int = 200,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Detection:
    """Compute every out-of-distribution score on the flow's own test rows and on other data.

    Args:
        trained: the run; its validation rows define what is typical.
        against: names or paths of other data, as `load_other_rows` takes them.
        background: a run of the same flow on mutated images, for the likelihood ratio.
        limit: number of rows of every set at most, drawn at random.
        batch: number of rows that the typicality test judges together, besides single rows.
        draws, exact_terms, batch_size: of the estimate of log p(x).
        seed: seed of the choice of rows and of the noise.
        watcher: is told the progress.

    Raises:
        ConfigurationError: the flow's own data are among the others, or there are too few rows.
        DataError: the flow's own data have changed since it was trained on them.
        ShapeError: other data, or the background flow, have another shape.
    """
    if background is not None:
        _check_background(background, trained)
    choice = Generator().manual_seed(seed)
    watcher = watcher or Silent()
    sets, held_out = _sets(trained, against, limit, batch, choice, watcher.note)
    generator = make_generator(trained.flow.device, seed)

    def gather(name: str, rows: Tensor, background: Flow | None) -> Evidence:
        return gather_evidence(
            trained.flow,
            rows,
            background=background,
            estimator=replace(EVALUATION, exact_terms=exact_terms),
            draws=draws,
            batch_size=batch_size,
            generator=generator,
            progress=lambda done, total: watcher.phase(name, done, total),
        )

    typical = gather("held out", held_out, None).log_prob
    background_flow = None if background is None else background.flow
    evidence = {rows.name: gather(rows.name, rows.rows, background_flow) for rows in sets}
    batches = (1, batch) if batch > 1 else (1,)
    report = report_detection(sets[0].name, evidence, typical, batches=batches, generator=choice)
    return Detection(report, tuple(sets))


def _check_background(background: Run, trained: Run) -> None:
    if (background.flow.event_shape, background.levels) != (trained.flow.event_shape, trained.levels):
        raise ShapeError(
            f"{background.path} takes data of shape {background.flow.event_shape} with {background.levels} levels, "
            f"{trained.path} of {trained.flow.event_shape} with {trained.levels}: a likelihood ratio needs "
            "the same of both."
        )
    if background.columns != trained.columns:
        its_columns, columns = (
            quoted(run.columns) if run.columns else "unnamed columns" for run in (background, trained)
        )
        raise ShapeError(
            f"{background.path} takes {its_columns}, {trained.path} {columns}: a likelihood ratio needs the same "
            "columns in the same order."
        )


def _sets(
    trained: Run, names: Sequence[str], limit: int, batch: int, generator: Generator, note: Note
) -> tuple[list[OtherRows], Tensor]:
    """The flow's own test rows and the other data; and, apart, its own validation rows."""
    settings = trained.recipe.data
    own = load_own_data(trained, note)
    sets = [OtherRows(own.name, draw_rows(own.test, limit, generator))]
    held_out = draw_rows(own.validation, limit, generator)
    for name in names:
        if name == own.name:
            raise ConfigurationError(f"against={name}: the flow was trained on these data; name others.")
        sets.append(
            load_other_rows(
                name,
                trained.flow.event_shape,
                trained.levels,
                limit,
                root=settings.root,
                columns=trained.columns,
                generator=generator,
                note=note,
            )
        )
    for rows in sets:
        if len(rows.rows) < 2 * batch:
            raise ConfigurationError(
                f"batch={batch}, but {rows.name} has {len(rows.rows)} rows: each set needs at least two batches."
            )
    return sets, held_out
