"""The one dict of experiments."""

from __future__ import annotations

from contraflow.reproduction.ablation import FIGURE_8, TABLE_3
from contraflow.reproduction.activations import FIGURE_4
from contraflow.reproduction.bias import FIGURE_2
from contraflow.reproduction.experiment import Experiment

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "table3": TABLE_3,
    "fig2": FIGURE_2,
    "fig4": FIGURE_4,
    "fig8": FIGURE_8,
}
