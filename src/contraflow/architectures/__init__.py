"""Published flows: a function that builds each, and the dict `ARCHITECTURES` of named settings."""

from contraflow.architectures.architecture import Architecture
from contraflow.architectures.autoregressive import iaf, made, maf, naf, nsf
from contraflow.architectures.catalogue import ARCHITECTURES
from contraflow.architectures.ffjord import DIVERGENCES, ffjord
from contraflow.architectures.glow import glow
from contraflow.architectures.hybrid import hybrid
from contraflow.architectures.hybrid_flow import BranchedFlow, HybridFlow, MixtureFlow
from contraflow.architectures.idensenet import idensenet
from contraflow.architectures.implicit_flow import implicit_flow
from contraflow.architectures.iresnet import iresnet
from contraflow.architectures.linear_flows import linear_plu, linear_qr, orthogonal
from contraflow.architectures.monotone_flow import monotone_flow
from contraflow.architectures.nice import nice
from contraflow.architectures.planar import planar
from contraflow.architectures.real_nvp import real_nvp
from contraflow.architectures.residual_flow import residual_flow, residual_flow_images
from contraflow.architectures.sylvester import sylvester

__all__ = [
    "ARCHITECTURES",
    "DIVERGENCES",
    "Architecture",
    "BranchedFlow",
    "HybridFlow",
    "MixtureFlow",
    "ffjord",
    "glow",
    "hybrid",
    "iaf",
    "idensenet",
    "implicit_flow",
    "iresnet",
    "linear_plu",
    "linear_qr",
    "made",
    "maf",
    "monotone_flow",
    "naf",
    "nice",
    "nsf",
    "orthogonal",
    "planar",
    "real_nvp",
    "residual_flow",
    "residual_flow_images",
    "sylvester",
]
