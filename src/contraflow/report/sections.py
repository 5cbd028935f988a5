"""The sections of a report in their order, and the file that they form."""

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
from contraflow.report.run_data import RunData
from contraflow.report.tables import columns
from contraflow.report.two_dimensional import plane

#: Title → function that makes the HTML of the section, or returns ``None`` if the section does not apply to the run.
SECTIONS: dict[str, Callable[[RunData], list[str] | None]] = {
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


def report_page(run: RunData) -> str:
    """The report as a self-contained HTML page.

    A section that cannot be computed, because an inverse or a solver fails, is replaced by the error message.
    """
    sections = []
    for done, (title, make) in enumerate(SECTIONS.items()):
        run.progress("sections", done, len(SECTIONS))
        try:
            blocks = make(run)
        except (DomainError, InversionError, SolverError) as error:
            blocks = [paragraph(f"This section could not be computed: {error}")]
        if blocks is not None:
            sections.append(Section(title, blocks))
    run.progress("sections", len(SECTIONS), len(SECTIONS))
    recipe = run.trained.recipe
    name = recipe.architecture.name
    about = ARCHITECTURES[name].about
    about = f"{about[0].upper()}{about[1:]} (`{name}`), seed {recipe.seed}"
    return render(Path(recipe.data.name).name, about, facts(run), sections)


def write_report(run: RunData, path: Path) -> None:
    """Write the report to a file.

    Raises:
        OutputError: the file could not be written; an old file of that name is intact.
    """
    write_text(path, report_page(run))


def facts(run: RunData) -> list[tuple[str, str, str]]:
    """Label, value and remark of each number at the top of the page."""
    report = run.test_score.report
    flow = run.trained.flow
    score = f"{report.value:.3f} ± {report.standard_error:.3f}"
    draws = f"{report.draws} draw{'s' if report.draws != 1 else ''} each"
    numbers = [(f"Test score, {report.unit}", score, f"{report.rows:,} rows, {draws}")]
    classified = run.classification
    if classified is not None:
        low, high = 100 * classified.accuracy_low, 100 * classified.accuracy_high
        remark = f"95 %: {low:.2f} to {high:.2f}, {classified.rows:,} rows"
        numbers.append(("Test accuracy", f"{100 * classified.accuracy:.2f} %", remark))
    blocks = run.certificate.blocks
    if blocks:
        bound = max(block.bound for block in blocks)
        proved = "all blocks proved invertible" if run.certificate.invertible else "invertibility not proved"
        numbers.append(("Largest Lipschitz bound", f"{bound:.4f}", f"{proved}, {len(blocks)} blocks"))
    count = sum(parameter.numel() for parameter in flow.parameters())
    numbers.append(("Parameters", f"{count:,}", f"{flow.dimensions:,} dimensions"))
    numbers.append(("Training", f"{run.trained.step:,} steps", _duration(run)))
    return numbers


def _duration(run: RunData) -> str:
    times = [line["time"] for line in run.log if isinstance(line.get("time"), float)]
    seconds = [line["seconds"] for line in run.log if isinstance(line.get("seconds"), float)]
    if len(times) < 2 or not seconds:
        return "no training log"
    return f"{(times[-1] - times[0]) / 60:.1f} minutes, {statistics.median(seconds):.2g} s per step"
