"""How to reproduce a run: command, recipe, versions."""

from __future__ import annotations

import json

import torch

from contraflow.report.page import command, details, paragraph
from contraflow.report.run_data import RunData
from contraflow.runs import RECIPES
from contraflow.runs.command import command as training_command


def origin(run: RunData) -> list[str]:
    """The last section."""
    recipe = run.trained.recipe
    repeat: list[str] = []
    if recipe.recipe in RECIPES:
        repeat = [paragraph("The command that trains this run again:"), command(training_command(recipe, "RUN"))]
    return [
        *repeat,
        details("The complete recipe", json.dumps(recipe.as_dict(), indent=2)),
        paragraph(
            f"This report was computed from the weights at step {run.trained.step:,}, with seed {run.settings.seed} "
            f"and PyTorch {torch.__version__}."
        ),
    ]
