"""A trained flow asked about other data than its own."""

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
from contraflow.runs.run import Silent, Watcher


@dataclass(frozen=True)
class Comparison:
    """How well a flow tells other data from its own, and what those data are."""

    report: DetectionReport
    sets: tuple[OtherRows, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.report.as_dict(), "changes": {one.name: one.change for one in self.sets}}

    def __str__(self) -> str:
        return f"{self.report}\n\n{self.remarks()}"

    def remarks(self) -> str:
        """A line on every set: its log p(x), whether it is typical, what was done to it."""
        lines = []
        for one in self.sets:
            mean, error = self.report.log_prob[one.name]
            rejected = ", ".join(f"{share:.0%} ({test})" for test, share in self.report.rejected[one.name].items())
            change = f"; {one.change}" if one.change else ""
            lines.append(
                f"{one.name}: {len(one.rows)} rows, log p(x) {mean:.1f} ± {error:.1f} nats, rejected as atypical at "
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
) -> Comparison:
    """Every out-of-distribution score of the flow's own test rows and of other data.

    Args:
        trained: the flow; typicality refers to its validation rows.
        against: data sets as `load_other_rows` takes them.
        background: the same flow trained on mutated images, for the likelihood ratio.
        limit: most rows of every set, drawn at random.
        batch: rows that the typicality test looks at together, beside single ones.
        draws, exact_terms, batch_size: of log p(x).
        seed: of rows and noise.
        watcher: told about progress.

    Raises:
        ConfigurationError: the flow's own data among the others, or too few rows.
        DataError: the flow's own data have changed since it was trained.
        ShapeError: other data, or a background flow, of another shape.
    """
    if background is not None:
        _check_background(background, trained)
    drawn = Generator().manual_seed(seed)
    told = watcher or Silent()
    sets, held_out = _sets(trained, against, limit, batch, drawn, told.note)
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
            progress=lambda done, total: told.phase(name, done, total),
        )

    typical = gather("held out", held_out, None).log_prob
    other = None if background is None else background.flow
    evidence = {one.name: gather(one.name, one.rows, other) for one in sets}
    batches = (1, batch) if batch > 1 else (1,)
    return Comparison(report_detection(sets[0].name, evidence, typical, batches=batches, generator=drawn), tuple(sets))


def _check_background(background: Run, trained: Run) -> None:
    if (background.flow.event_shape, background.levels) != (trained.flow.event_shape, trained.levels):
        raise ShapeError(
            f"{background.path} takes data of shape {background.flow.event_shape} with {background.levels} levels, "
            f"{trained.path} of {trained.flow.event_shape} with {trained.levels}: a likelihood ratio needs the same."
        )
    if background.columns != trained.columns:
        theirs, ours = (quoted(one.columns) if one.columns else "unnamed columns" for one in (background, trained))
        raise ShapeError(
            f"{background.path} takes {theirs}, {trained.path} {ours}: a likelihood ratio needs the same, in one order."
        )


def _sets(
    trained: Run, names: Sequence[str], limit: int, batch: int, generator: Generator, note: Note
) -> tuple[list[OtherRows], Tensor]:
    """The own test rows first, then the others; and own rows that the flow was not trained on, apart."""
    settings = trained.recipe.data
    own = load_own_data(trained, note)
    sets = [OtherRows(own.name, draw_rows(own.test, limit, generator))]
    held_out = draw_rows(own.validation, limit, generator)
    for name in names:
        if name == own.name:
            raise ConfigurationError(f"against={name}: the flow was trained on that; name other data.")
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
    for one in sets:
        if len(one.rows) < 2 * batch:
            raise ConfigurationError(
                f"batch={batch}, but {one.name} has {len(one.rows)} rows: two batches at least are needed of each set."
            )
    return sets, held_out
