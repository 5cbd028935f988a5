"""The sections of a report in order, and the file they make."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from contraflow.architectures import ARCHITECTURES
from contraflow.errors import DomainError, InversionError, SolverError
from contraflow.files import write_text
from contraflow.report.calibration import calibration
from contraflow.report.classifier import classifier
from contraflow.report.curves import training
from contraflow.report.densities import likelihood
from contraflow.report.images import samples
from contraflow.report.invertibility import invertibility
from contraflow.report.norms import norms
from contraflow.report.origin import origin
from contraflow.report.page import Section, paragraph, render
from contraflow.report.run_data import Subject
from contraflow.report.tables import columns
from contraflow.report.two_dimensional import plane

#: Title → what makes its blocks, or ``None`` for a run that the section does not apply to.
SECTIONS: dict[str, Callable[[Subject], list[str] | None]] = {
    "Samples": samples,
    "Density and samples": plane,
    "Columns and samples": columns,
    "Training": training,
    "Likelihood": likelihood,
    "Calibration": calibration,
    "Classifier": classifier,
    "Invertibility": invertibility,
    "Learned norms": norms,
    "How to get this run": origin,
}


def report_page(subject: Subject) -> str:
    """The report as HTML, one string that needs nothing else.

    A section whose numbers cannot be had, because an inverse or a solver fails, says so in its place.
    """
    sections = []
    for done, (title, make) in enumerate(SECTIONS.items()):
        subject.progress("sections", done, len(SECTIONS))
        try:
            blocks = make(subject)
        except (DomainError, InversionError, SolverError) as error:
            blocks = [paragraph(f"Could not be computed: {error}")]
        if blocks is not None:
            sections.append(Section(title, blocks))
    subject.progress("sections", len(SECTIONS), len(SECTIONS))
    recipe = subject.trained.recipe
    name = recipe.architecture.name
    about = ARCHITECTURES[name].about
    about = f"{about[0].upper()}{about[1:]} (`{name}`), seed {recipe.seed}"
    return render(Path(recipe.data.name).name, about, facts(subject), sections)


def write_report(subject: Subject, path: Path) -> None:
    """The report as a file.

    Raises:
        OutputError: it could not be written; an old file of that name is intact.
    """
    write_text(path, report_page(subject))


def facts(subject: Subject) -> list[tuple[str, str, str]]:
    """Label, value and remark of the figures at the top."""
    report = subject.test_score.report
    flow = subject.trained.flow
    score = f"{report.value:.3f} ± {report.standard_error:.3f}"
    draws = f"{report.draws} draw{'s' if report.draws != 1 else ''} each"
    found = [(f"Test score, {report.unit}", score, f"{report.rows:,} rows, {draws}")]
    classified = subject.classification
    if classified is not None:
        low, high = (100 * one for one in (classified.accuracy_low, classified.accuracy_high))
        remark = f"95 %: {low:.2f} to {high:.2f}, {classified.rows:,} rows"
        found.append(("Test accuracy", f"{100 * classified.accuracy:.2f} %", remark))
    blocks = subject.certificate.blocks
    if blocks:
        bound = max(one.bound for one in blocks)
        proved = "every block proved invertible" if subject.certificate.invertible else "invertibility is not proved"
        found.append(("Largest Lipschitz bound", f"{bound:.4f}", f"{proved}, {len(blocks)} blocks"))
    count = sum(one.numel() for one in flow.parameters())
    found.append(("Parameters", f"{count:,}", f"{flow.dimensions:,} dimensions"))
    found.append(("Training", f"{subject.trained.step:,} steps", _duration(subject)))
    return found


def _duration(subject: Subject) -> str:
    times = [line["time"] for line in subject.log if isinstance(line.get("time"), float)]
    seconds = [line["seconds"] for line in subject.log if isinstance(line.get("seconds"), float)]
    if len(times) < 2 or not seconds:
        return "no log beside the checkpoint"
    return f"{(times[-1] - times[0]) / 60:.1f} minutes, {statistics.median(seconds):.2g} s a step"
