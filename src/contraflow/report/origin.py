"""Where a run came from: the command, the settings, the versions."""

from __future__ import annotations

import json

import torch

from contraflow.report.page import command, details, paragraph
from contraflow.report.run_data import Subject
from contraflow.runs import RECIPES
from contraflow.runs.command import command as training_command


def origin(subject: Subject) -> list[str]:
    """The section at the end."""
    recipe = subject.trained.recipe
    again: list[str] = []
    if recipe.recipe in RECIPES:
        again = [paragraph("The command that trains this run again:"), command(training_command(recipe, "RUN"))]
    return [
        *again,
        details("The whole recipe", json.dumps(recipe.as_dict(), indent=2)),
        paragraph(
            f"Computed from the weights of step {subject.trained.step:,} with seed {subject.settings.seed} by "
            f"PyTorch {torch.__version__}."
        ),
    ]
