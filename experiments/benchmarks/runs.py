"""Trained runs for benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def trained(folder: Path, steps: int | None = None) -> Path:
    """The run in a folder called RECIPE-SEED, which is trained if it is missing.

    Args:
        folder: of the run.
        steps: number of training steps; that of the recipe by default.
    """
    if not (folder / "evaluation.json").is_file():
        recipe, _, seed = folder.name.rpartition("-")
        command = ["contraflow", "train", recipe, "--out", str(folder), "--seed", seed]
        if steps is not None:
            command.append(f"training.steps={steps}")
        subprocess.run([sys.executable, "-m", *command], check=True)
    return folder
