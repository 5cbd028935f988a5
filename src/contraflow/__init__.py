"""contraflow: normalizing flows in PyTorch, with Residual Flows (Chen et al. 2019) at the centre.

At the top level stand the names that most programs need: `Flow`, the builders of residual flows, the building blocks of
a flow of your own, the log-determinant estimators, certificates and errors. Every other name belongs to one of these
modules:

- `contraflow.architectures`: a function for each published flow, such as `contraflow.architectures.glow`. All of them
  are also found at the top level, `contraflow.glow`.
- `contraflow.bijections`: invertible maps, such as `contraflow.bijections.Inverse`.
- `contraflow.logdet`: log-determinant estimators, truncation laws and probes, such as `contraflow.logdet.Poisson`.
- `contraflow.lipschitz`: networks with a bounded Lipschitz constant, norms and certificates.
- `contraflow.distributions`: base distributions.
- `contraflow.nets`: the networks inside coupling layers and continuous flows.
- `contraflow.numerics`: fixed-point and ODE solvers, bisection, norms.
- `contraflow.preprocessing`: dequantisation, scaling and the logit transform, as bijections.
- `contraflow.testing`: checks for bijections and estimators of your own. It is imported separately.

Data sets, training, evaluation, reports and the command need ``pip install 'contraflow[lab]'``.
"""

from collections.abc import Callable

from contraflow import waiting  # noqa: F401

# isort: split
from contraflow import (
    architectures,
    bijections,
    distributions,
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


def __getattr__(name: str) -> Callable[..., Flow]:
    if name.islower() and name in architectures.__all__:
        builder: Callable[..., Flow] = getattr(architectures, name)
        return builder
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
