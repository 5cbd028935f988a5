"""The tables and figures of Chen et al. 2019 (arXiv:1906.02735) as named experiments."""

from contraflow.reproduction.catalogue import EXPERIMENTS
from contraflow.reproduction.experiment import Claim, Experiment, Picture, Result, Setting, Table
from contraflow.reproduction.plan import Plan, Run
from contraflow.reproduction.reproduce import reproduce

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "Experiment",
    "Picture",
    "Plan",
    "Result",
    "Run",
    "Setting",
    "Table",
    "reproduce",
]
