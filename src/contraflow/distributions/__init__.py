"""Base distributions."""

from contraflow.distributions.normal import StandardNormal

__all__ = ["StandardNormal"]
