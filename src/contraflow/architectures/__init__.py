"""Flows as the papers built them: a function each, and one dict of them."""

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.catalogue import ARCHITECTURES
from contraflow.architectures.idensenet import idensenet
from contraflow.architectures.iresnet import iresnet
from contraflow.architectures.residual_flow import residual_flow, residual_flow_images

__all__ = ["ARCHITECTURES", "Architecture", "idensenet", "iresnet", "residual_flow", "residual_flow_images"]
