"""Numerical routines that know tensors and closures, not modules."""

from contraflow.numerics.block_cholesky import BlockTridiagonal, is_below, norm_from_above
from contraflow.numerics.fixed_point import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.numerics.power_iteration import power_iteration
from contraflow.numerics.two_stage import Means, fixed_means, two_stage_means

__all__ = [
    "Anderson",
    "BlockTridiagonal",
    "FixedPoint",
    "FixedPointSolver",
    "Means",
    "Picard",
    "batch_jacobian",
    "fixed_means",
    "is_below",
    "norm_from_above",
    "power_iteration",
    "two_stage_means",
]
