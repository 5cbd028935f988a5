"""Lip(g) <= c: layers, activations with their constants, norms and certificates."""

from contraflow.lipschitz.activations import (
    ACTIVATIONS,
    CLIPSWISH_LIPSCHITZ,
    ELU,
    Activation,
    CLipSwish,
    ConcatenatedSine,
    CPila,
    LipSwish,
    Softplus,
    Swish,
)
from contraflow.lipschitz.bounds.induced import certified_induced_norm
from contraflow.lipschitz.bounds.spectral import certified_conv_norm, certified_dense_norm
from contraflow.lipschitz.certificate import BlockCertificate, Certificate, LayerCertificate, NormOrders, norm_orders
from contraflow.lipschitz.dense_concatenation import (
    DenseConcatenation,
    DenseConcatenationConvNet,
    DenseConcatenationMLP,
)
from contraflow.lipschitz.initialisation import INITIALISATIONS, orthogonal_
from contraflow.lipschitz.layers import LipschitzConv2d, LipschitzLinear
from contraflow.lipschitz.network import LipschitzConvNet, LipschitzMLP, LipschitzNetwork
from contraflow.lipschitz.norms import LearnedNorms, MixedNorms, NarrowRange, Norms, OrderSquash, SkewedRange, Spectral
from contraflow.lipschitz.operator_norms import ChannelwiseNorm, InducedNorm, OperatorNorm, SpectralNorm, norm_between
from contraflow.lipschitz.soft_normalisation import LipschitzLayer, shared_scales
from contraflow.lipschitz.update import (
    largest_estimate,
    largest_rescaling,
    mean_norm,
    rescale_to_certificate,
    update_lipschitz,
)

__all__ = [
    "ACTIVATIONS",
    "CLIPSWISH_LIPSCHITZ",
    "ELU",
    "INITIALISATIONS",
    "Activation",
    "BlockCertificate",
    "CLipSwish",
    "CPila",
    "Certificate",
    "ChannelwiseNorm",
    "ConcatenatedSine",
    "DenseConcatenation",
    "DenseConcatenationConvNet",
    "DenseConcatenationMLP",
    "InducedNorm",
    "LayerCertificate",
    "LearnedNorms",
    "LipSwish",
    "LipschitzConv2d",
    "LipschitzConvNet",
    "LipschitzLayer",
    "LipschitzLinear",
    "LipschitzMLP",
    "LipschitzNetwork",
    "MixedNorms",
    "NarrowRange",
    "NormOrders",
    "Norms",
    "OperatorNorm",
    "OrderSquash",
    "SkewedRange",
    "Softplus",
    "Spectral",
    "SpectralNorm",
    "Swish",
    "certified_conv_norm",
    "certified_dense_norm",
    "certified_induced_norm",
    "largest_estimate",
    "largest_rescaling",
    "mean_norm",
    "norm_between",
    "norm_orders",
    "orthogonal_",
    "rescale_to_certificate",
    "shared_scales",
    "update_lipschitz",
]
