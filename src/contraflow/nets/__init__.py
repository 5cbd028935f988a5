"""Unconstrained networks: conditioners of coupling layers."""

from contraflow.nets.context import append_context
from contraflow.nets.convolutional import ConvNet
from contraflow.nets.mlp import MLP
from contraflow.nets.residual import ResidualConvNet

__all__ = ["MLP", "ConvNet", "ResidualConvNet", "append_context"]
"""Unconstrained networks: vector fields."""

from contraflow.nets.vector_field import FIELD_ACTIVATIONS, ConcatSquash, VectorField, conv_field, dense_field

__all__ = ["FIELD_ACTIVATIONS", "ConcatSquash", "VectorField", "conv_field", "dense_field"]
