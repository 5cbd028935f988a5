"""Numerical routines that know tensors and closures, not modules."""

from contraflow.numerics.fixed_point import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.numerics.power_iteration import power_iteration

__all__ = ["Anderson", "FixedPoint", "FixedPointSolver", "Picard", "batch_jacobian", "power_iteration"]
