"""Base distributions p(z) of a flow."""

from contraflow.distributions.base import BaseDistribution
from contraflow.distributions.class_normal import ClassNormal
from contraflow.distributions.normal import StandardNormal
from contraflow.distributions.torch_distribution import TorchDistribution

__all__ = ["BaseDistribution", "ClassNormal", "StandardNormal", "TorchDistribution"]
