"""The training loop, the Polyak average, checkpoints."""

from contraflow.training.average import PolyakAverage
from contraflow.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from contraflow.training.loop import StepRecord, TrainingState, train
from contraflow.training.settings import TrainingSettings

__all__ = [
    "Checkpoint",
    "PolyakAverage",
    "StepRecord",
    "TrainingSettings",
    "TrainingState",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
