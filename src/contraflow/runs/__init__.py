"""Training from a recipe, a function that returns a complete, typed configuration, and the runs that result."""

from contraflow.runs.build import Run, build_flow, load_run
from contraflow.runs.log import TrainingLog
from contraflow.runs.recipe import (
    ArchitectureSettings,
    DataSettings,
    EvaluationSettings,
    PreprocessingSettings,
    Recipe,
)
from contraflow.runs.recipes import RECIPES, with_architecture
from contraflow.runs.run import run_recipe

__all__ = [
    "RECIPES",
    "ArchitectureSettings",
    "DataSettings",
    "EvaluationSettings",
    "PreprocessingSettings",
    "Recipe",
    "Run",
    "TrainingLog",
    "build_flow",
    "load_run",
    "run_recipe",
    "with_architecture",
]
