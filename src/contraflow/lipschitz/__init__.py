"""Lip(g) <= c: layers, activations with their constants, norms and certificates."""

from contraflow.lipschitz.activations import ACTIVATIONS, ELU, Activation, LipSwish, Softplus, Swish
from contraflow.lipschitz.certificate import certified_conv_norm, certified_dense_norm
from contraflow.lipschitz.certification import BlockCertificate, Certificate, LayerCertificate
from contraflow.lipschitz.layers import LipschitzConv2d, LipschitzLayer, LipschitzLinear
from contraflow.lipschitz.network import LipschitzConvNet, LipschitzMLP, LipschitzNetwork
from contraflow.lipschitz.normalisation import largest_estimate, rescale_to_certificate, update_lipschitz

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "Activation",
    "BlockCertificate",
    "Certificate",
    "LayerCertificate",
    "LipSwish",
    "LipschitzConv2d",
    "LipschitzConvNet",
    "LipschitzLayer",
    "LipschitzLinear",
    "LipschitzMLP",
    "LipschitzNetwork",
    "Softplus",
    "Swish",
    "certified_conv_norm",
    "certified_dense_norm",
    "largest_estimate",
    "rescale_to_certificate",
    "update_lipschitz",
]
