"""Experiments: a recipe is a function that returns a complete, typed configuration."""

from contraflow.recipes.build import Run, build_flow, load_run
from contraflow.recipes.catalogue import RECIPES, with_architecture
from contraflow.recipes.log import TrainingLog
from contraflow.recipes.recipe import (
    ArchitectureSettings,
    DataSettings,
    EvaluationSettings,
    PreprocessingSettings,
    Recipe,
)
from contraflow.recipes.run import run_recipe

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
