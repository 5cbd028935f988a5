"""Flows as the papers built them: a function each, and one dict of them."""

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.catalogue import ARCHITECTURES
from contraflow.architectures.ffjord import DIVERGENCES, ffjord
from contraflow.architectures.residual_flow import residual_flow, residual_flow_images

__all__ = ["ARCHITECTURES", "DIVERGENCES", "Architecture", "ffjord", "residual_flow", "residual_flow_images"]
