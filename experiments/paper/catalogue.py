"""All experiments, by name."""

from __future__ import annotations

from experiments.paper.abilities import ABILITIES
from experiments.paper.ablation import FIGURE_8, TABLE_3
from experiments.paper.activations import FIGURE_4
from experiments.paper.bias import FIGURE_2
from experiments.paper.density import TABLE_1
from experiments.paper.experiment import Experiment
from experiments.paper.hybrids import TABLE_4, TABLE_5
from experiments.paper.memory import FIGURE_3
from experiments.paper.norms import FIGURE_15, FIGURE_15B, FIGURE_16, FIGURE_17, FIGURE_18
from experiments.paper.out_of_distribution import OUT_OF_DISTRIBUTION
from experiments.paper.reconstructions import RECONSTRUCTIONS
from experiments.paper.reduced_entropy import FIGURE_7
from experiments.paper.sample_quality import TABLE_2
from experiments.paper.samples import SAMPLES
from experiments.paper.semi_supervised import SEMI_SUPERVISED

#: Name → experiment.
EXPERIMENTS: dict[str, Experiment] = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table3": TABLE_3,
    "table4": TABLE_4,
    "table5": TABLE_5,
    "fig2": FIGURE_2,
    "fig3": FIGURE_3,
    "fig4": FIGURE_4,
    "fig7": FIGURE_7,
    "fig8": FIGURE_8,
    "fig15": FIGURE_15,
    "fig15b": FIGURE_15B,
    "fig16": FIGURE_16,
    "fig17": FIGURE_17,
    "fig18": FIGURE_18,
    "samples": SAMPLES,
    "abilities": ABILITIES,
    "reconstructions": RECONSTRUCTIONS,
    "ood": OUT_OF_DISTRIBUTION,
    "semi_supervised": SEMI_SUPERVISED,
}
