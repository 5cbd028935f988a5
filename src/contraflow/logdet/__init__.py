"""Estimators of log|det(I + J_g)|: exact, by the truncated power series, and unbiased by Russian roulette."""

from contraflow.logdet import probes
from contraflow.logdet.adaptive import AdaptiveRoulette, SeriesDecay
from contraflow.logdet.contraction import ModuleContraction
from contraflow.logdet.determinants import CAYLEY, RESIDUAL, Determinant
from contraflow.logdet.divergence import Divergence, ExactDivergence, Hutchinson
from contraflow.logdet.estimators import (
    EVALUATION,
    TRAINING,
    Exact,
    GeneralEstimator,
    LogDetEstimator,
    PowerSeries,
    RussianRoulette,
)
from contraflow.logdet.gradients import GRADIENTS, functional
from contraflow.logdet.laws import Geometric, Poisson, TruncationLaw
from contraflow.logdet.paper import PaperRoulette
from contraflow.numerics import Contraction, Vjp

__all__ = [
    "CAYLEY",
    "EVALUATION",
    "GRADIENTS",
    "RESIDUAL",
    "TRAINING",
    "AdaptiveRoulette",
    "Contraction",
    "Determinant",
    "Divergence",
    "Exact",
    "ExactDivergence",
    "GeneralEstimator",
    "Geometric",
    "Hutchinson",
    "LogDetEstimator",
    "ModuleContraction",
    "PaperRoulette",
    "Poisson",
    "PowerSeries",
    "RussianRoulette",
    "SeriesDecay",
    "TruncationLaw",
    "Vjp",
    "functional",
    "probes",
]
