"""The one dict of experiments."""

from __future__ import annotations

from contraflow.reproduction.activations import FIGURE_4
from contraflow.reproduction.experiment import Experiment
from contraflow.reproduction.hybrids import TABLE_4, TABLE_5
from contraflow.reproduction.out_of_distribution import OUT_OF_DISTRIBUTION
from contraflow.reproduction.reduced_entropy import FIGURE_7
from contraflow.reproduction.sample_quality import TABLE_2
from contraflow.reproduction.semi_supervised import SEMI_SUPERVISED

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "table2": TABLE_2,
    "fig4": FIGURE_4,
    "table4": TABLE_4,
    "table5": TABLE_5,
    "semi_supervised": SEMI_SUPERVISED,
    "fig7": FIGURE_7,
    "ood": OUT_OF_DISTRIBUTION,
}
