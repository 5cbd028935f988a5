"""Networks without a Lipschitz bound: conditioners of couplings, and vector fields of continuous flows."""

from contraflow.nets.context import append_context
from contraflow.nets.convolutional import ConvNet
from contraflow.nets.mlp import MLP
from contraflow.nets.residual import ResidualConvNet
from contraflow.nets.vector_field import (
    FIELD_ACTIVATIONS,
    FIELD_LAYERS,
    Concat,
    ConcatSquash,
    VectorField,
    conv_field,
    dense_field,
    with_zero_output,
)

__all__ = [
    "FIELD_ACTIVATIONS",
    "FIELD_LAYERS",
    "MLP",
    "Concat",
    "ConcatSquash",
    "ConvNet",
    "ResidualConvNet",
    "VectorField",
    "append_context",
    "conv_field",
    "dense_field",
    "with_zero_output",
]
