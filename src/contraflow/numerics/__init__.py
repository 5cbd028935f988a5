"""Numerical routines that know tensors and closures, not modules."""

from contraflow.numerics.fixed_point import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.numerics.induced_norm import Order, dual_order, duality_map, induced_power_iteration, order_norm
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.numerics.power_iteration import power_iteration

__all__ = [
    "Anderson",
    "FixedPoint",
    "FixedPointSolver",
    "Order",
    "Picard",
    "batch_jacobian",
    "dual_order",
    "duality_map",
    "induced_power_iteration",
    "order_norm",
    "power_iteration",
]
