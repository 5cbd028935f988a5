"""The one dict of architectures."""

from __future__ import annotations

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.linear_flows import LINEAR_FLOWS
from contraflow.architectures.planar import PLANARS
from contraflow.architectures.residual_flow import RESIDUAL_FLOWS
from contraflow.architectures.sylvester import SYLVESTERS

#: Name → architecture, family by family.
ARCHITECTURES: dict[str, Architecture] = {
    **RESIDUAL_FLOWS,
    **LINEAR_FLOWS,
    **PLANARS,
    **SYLVESTERS,
}
