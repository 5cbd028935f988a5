"""Flows as the papers built them: a function each, and one dict of them."""

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.catalogue import ARCHITECTURES
from contraflow.architectures.linear_flows import linear_plu, linear_qr, orthogonal
from contraflow.architectures.planar import planar
from contraflow.architectures.residual_flow import residual_flow, residual_flow_images
from contraflow.architectures.sylvester import sylvester

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "linear_plu",
    "linear_qr",
    "orthogonal",
    "planar",
    "residual_flow",
    "residual_flow_images",
    "sylvester",
]
