"""The one dict of architectures."""

from __future__ import annotations

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.ffjord import FFJORDS
from contraflow.architectures.residual_flow import RESIDUAL_FLOWS

#: Name → architecture, family by family.
ARCHITECTURES: dict[str, Architecture] = {
    **RESIDUAL_FLOWS,
    **FFJORDS,
}
