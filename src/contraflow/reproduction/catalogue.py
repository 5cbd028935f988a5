"""The one dict of experiments."""

from __future__ import annotations

from contraflow.reproduction.activations import FIGURE_4
from contraflow.reproduction.experiment import Experiment

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "fig4": FIGURE_4,
}
