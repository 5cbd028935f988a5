"""The one dict of architectures."""

from __future__ import annotations

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.idensenet import IDENSENETS
from contraflow.architectures.iresnet import IRESNETS
from contraflow.architectures.residual_flow import RESIDUAL_FLOWS

#: Name → architecture, family by family.
ARCHITECTURES: dict[str, Architecture] = {
    **RESIDUAL_FLOWS,
    **IRESNETS,
    **IDENSENETS,
}
