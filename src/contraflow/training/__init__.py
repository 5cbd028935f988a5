"""The training loop and its objectives, the Polyak average of the weights, and checkpoints."""

from contraflow.training.average import PolyakAverage
from contraflow.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from contraflow.training.flow_matching import FlowMatching
from contraflow.training.loop import StepRecord, TrainingState, train
from contraflow.training.objective import LIKELIHOOD, Hybrid, Likelihood, Objective
from contraflow.training.settings import TrainingSettings

__all__ = [
    "LIKELIHOOD",
    "Checkpoint",
    "FlowMatching",
    "Hybrid",
    "Likelihood",
    "Objective",
    "PolyakAverage",
    "StepRecord",
    "TrainingSettings",
    "TrainingState",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
