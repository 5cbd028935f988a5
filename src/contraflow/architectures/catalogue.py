"""The dict of all named architectures."""

from __future__ import annotations

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.autoregressive import AUTOREGRESSIVE_FLOWS
from contraflow.architectures.ffjord import FFJORDS
from contraflow.architectures.glow import GLOWS
from contraflow.architectures.hybrid import HYBRIDS
from contraflow.architectures.idensenet import IDENSENETS
from contraflow.architectures.implicit_flow import IMPLICIT_FLOWS
from contraflow.architectures.iresnet import IRESNETS
from contraflow.architectures.linear_flows import LINEAR_FLOWS
from contraflow.architectures.monotone_flow import MONOTONE_FLOWS
from contraflow.architectures.nice import NICES
from contraflow.architectures.planar import PLANARS
from contraflow.architectures.real_nvp import REAL_NVPS
from contraflow.architectures.residual_flow import RESIDUAL_FLOWS
from contraflow.architectures.sylvester import SYLVESTERS

#: Name → architecture, family by family.
ARCHITECTURES: dict[str, Architecture] = {
    **RESIDUAL_FLOWS,
    **NICES,
    **REAL_NVPS,
    **GLOWS,
    **AUTOREGRESSIVE_FLOWS,
    **IRESNETS,
    **LINEAR_FLOWS,
    **PLANARS,
    **SYLVESTERS,
    **FFJORDS,
    **IDENSENETS,
    **IMPLICIT_FLOWS,
    **MONOTONE_FLOWS,
    **HYBRIDS,
}
