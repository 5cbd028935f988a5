"""Unconstrained networks: vector fields."""

from contraflow.nets.vector_field import FIELD_ACTIVATIONS, ConcatSquash, VectorField, conv_field, dense_field

__all__ = ["FIELD_ACTIVATIONS", "ConcatSquash", "VectorField", "conv_field", "dense_field"]
