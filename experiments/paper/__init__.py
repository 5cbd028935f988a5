"""The tables and figures of Chen et al. 2019 (arXiv:1906.02735), and two of a lecture, as named experiments."""

from experiments.paper.catalogue import EXPERIMENTS
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import FinishedRun, Plan
from experiments.paper.reproduce import reproduce
from experiments.paper.setting import Setting

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "Experiment",
    "FinishedRun",
    "Picture",
    "Plan",
    "Result",
    "Setting",
    "Table",
    "reproduce",
]
