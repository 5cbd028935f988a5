"""The one dict of experiments."""

from __future__ import annotations

from contraflow.reproduction.activations import FIGURE_4
from contraflow.reproduction.experiment import Experiment
from contraflow.reproduction.hybrids import TABLE_4, TABLE_5
from contraflow.reproduction.semi_supervised import SEMI_SUPERVISED

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "fig4": FIGURE_4,
    "table4": TABLE_4,
    "table5": TABLE_5,
    "semi_supervised": SEMI_SUPERVISED,
}
