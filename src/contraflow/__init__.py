"""contraflow: log p(x), samples and a classifier from one invertible network."""

from contraflow.architectures import ARCHITECTURES, residual_flow, residual_flow_images
from contraflow.bijections import (
    ActNorm,
    Affine,
    Bijection,
    Chain,
    Flatten,
    Inverse,
    Inversion,
    Logit,
    MultiScale,
    Permutation,
    ResidualBlock,
    Squeeze,
)
from contraflow.distributions import StandardNormal
from contraflow.errors import ContraflowError, InversionError
from contraflow.flow import Flow, LogProbEstimate
from contraflow.lipschitz import (
    Certificate,
    LearnedNorms,
    LipschitzConvNet,
    LipschitzMLP,
    MixedNorms,
    Spectral,
    norm_orders,
    rescale_to_certificate,
    update_lipschitz,
)
from contraflow.logdet import (
    EVALUATION,
    TRAINING,
    AdaptiveRoulette,
    Exact,
    Gaussian,
    Geometric,
    ModuleContraction,
    PairedRademacher,
    Poisson,
    PowerSeries,
    Rademacher,
    RussianRoulette,
)
from contraflow.numerics import Anderson, Picard

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "EVALUATION",
    "TRAINING",
    "ActNorm",
    "AdaptiveRoulette",
    "Affine",
    "Anderson",
    "Bijection",
    "Certificate",
    "Chain",
    "ContraflowError",
    "Exact",
    "Flatten",
    "Flow",
    "Gaussian",
    "Geometric",
    "Inverse",
    "Inversion",
    "InversionError",
    "LearnedNorms",
    "LipschitzConvNet",
    "LipschitzMLP",
    "LogProbEstimate",
    "Logit",
    "MixedNorms",
    "ModuleContraction",
    "MultiScale",
    "PairedRademacher",
    "Permutation",
    "Picard",
    "Poisson",
    "PowerSeries",
    "Rademacher",
    "ResidualBlock",
    "RussianRoulette",
    "Spectral",
    "Squeeze",
    "StandardNormal",
    "norm_orders",
    "rescale_to_certificate",
    "residual_flow",
    "residual_flow_images",
    "update_lipschitz",
]
