"""Base distributions."""

from contraflow.distributions.class_normal import ClassNormal
from contraflow.distributions.given import GivenDistribution
from contraflow.distributions.normal import StandardNormal

__all__ = ["ClassNormal", "GivenDistribution", "StandardNormal"]
