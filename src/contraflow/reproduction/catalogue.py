"""The one dict of experiments."""

from __future__ import annotations

from contraflow.reproduction.activations import FIGURE_4
from contraflow.reproduction.experiment import Experiment
from contraflow.reproduction.out_of_distribution import OUT_OF_DISTRIBUTION
from contraflow.reproduction.reduced_entropy import FIGURE_7
from contraflow.reproduction.sample_quality import TABLE_2

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "table2": TABLE_2,
    "fig4": FIGURE_4,
    "fig7": FIGURE_7,
    "ood": OUT_OF_DISTRIBUTION,
}
