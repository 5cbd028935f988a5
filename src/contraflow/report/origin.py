"""Where a run came from: the command, the settings, the versions."""

from __future__ import annotations

import json

import torch

from contraflow.report.page import command, details, paragraph
from contraflow.report.run_data import Subject
from contraflow.runs.command import training_command


def origin(subject: Subject) -> list[str]:
    """The section at the end."""
    recipe = subject.trained.recipe
    said = training_command(recipe)
    first = [paragraph("The command that trains this run again:"), command(said)] if said is not None else []
    return [
        *first,
        details("The whole recipe", json.dumps(recipe.as_dict(), indent=2)),
        paragraph(
            f"Computed from the weights of step {subject.trained.step:,} with seed {subject.settings.seed} by "
            f"PyTorch {torch.__version__}."
        ),
    ]
