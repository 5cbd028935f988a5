"""Numerical routines that know tensors and closures, not modules."""

from contraflow.numerics.block_cholesky import BlockTridiagonal, is_below, norm_from_above
from contraflow.numerics.fixed_point import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.numerics.power_iteration import power_iteration

__all__ = [
    "Anderson",
    "BlockTridiagonal",
    "FixedPoint",
    "FixedPointSolver",
    "Picard",
    "batch_jacobian",
    "is_below",
    "norm_from_above",
    "power_iteration",
]
