"""Base distributions p(z) of a flow."""

from contraflow.distributions.base import BaseDistribution
from contraflow.distributions.class_normal import ClassNormal
from contraflow.distributions.given import GivenDistribution
from contraflow.distributions.normal import StandardNormal

__all__ = ["BaseDistribution", "ClassNormal", "GivenDistribution", "StandardNormal"]
