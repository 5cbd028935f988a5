"""contraflow: log p(x), samples and a classifier from one invertible network.

What a flow of residual blocks needs stands here; all else has the name of its part: `contraflow.architectures.glow`,
`contraflow.logdet.Poisson`, `contraflow.bijections.Inverse`. Names that only one part has are found here too
(`contraflow.glow`).
"""

from typing import Any

from contraflow import waiting  # noqa: F401

# isort: split
from contraflow import (
    architectures,
    bijections,
    distributions,
    earlier_paths,  # noqa: F401
    lipschitz,
    logdet,
    nets,
    numerics,
    preprocessing,
)
from contraflow.architectures import ARCHITECTURES, hybrid, idensenet, iresnet, residual_flow, residual_flow_images
from contraflow.bijections import Bijection, Chain, ResidualBlock, from_transform
from contraflow.errors import ContraflowError, InversionError, SolverError
from contraflow.flow import Flow, LogProbEstimate
from contraflow.lipschitz import Certificate, rescale_to_certificate, update_lipschitz
from contraflow.logdet import (
    EVALUATION,
    TRAINING,
    AdaptiveRoulette,
    Exact,
    ModuleContraction,
    PowerSeries,
    RussianRoulette,
)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for part in (architectures, bijections, distributions, lipschitz, logdet, logdet.probes, numerics):
            if name in part.__all__:
                return getattr(part, name)
    raise AttributeError(f"module 'contraflow' has no attribute {name!r}")


__all__ = [
    "ARCHITECTURES",
    "EVALUATION",
    "TRAINING",
    "AdaptiveRoulette",
    "Bijection",
    "Certificate",
    "Chain",
    "ContraflowError",
    "Exact",
    "Flow",
    "InversionError",
    "LogProbEstimate",
    "ModuleContraction",
    "PowerSeries",
    "ResidualBlock",
    "RussianRoulette",
    "SolverError",
    "architectures",
    "bijections",
    "distributions",
    "from_transform",
    "hybrid",
    "idensenet",
    "iresnet",
    "lipschitz",
    "logdet",
    "nets",
    "numerics",
    "preprocessing",
    "rescale_to_certificate",
    "residual_flow",
    "residual_flow_images",
    "update_lipschitz",
]
