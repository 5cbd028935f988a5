"""Numerical routines that know tensors and closures, not modules."""

from contraflow.numerics.aliases import alias
from contraflow.numerics.bisection import Bisection, Root, implicit
from contraflow.numerics.contraction import Contraction, Vjp, dual_gradient, functional_linearize
from contraflow.numerics.fixed_point import Anderson, FixedPoint, FixedPointSolver, Picard
from contraflow.numerics.induced_norm import (
    Order,
    dual_order,
    duality_map,
    induced_power_iteration,
    order_norm,
    order_number,
)
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.numerics.norm_from_above import BlockTridiagonal, is_below, norm_from_above
from contraflow.numerics.ode import FIXED_METHODS, METHODS, FixedStepSolver, OdeSolution, OdeSolver
from contraflow.numerics.orthogonal import below_diagonal, householder, random_reflections, strictly_lower
from contraflow.numerics.power_iteration import power_iteration
from contraflow.numerics.stein import Means, fixed_means, two_stage_means
from contraflow.numerics.transforms import is_batched, transforms_active, without_transforms

__all__ = [
    "FIXED_METHODS",
    "METHODS",
    "Anderson",
    "Bisection",
    "BlockTridiagonal",
    "Contraction",
    "FixedPoint",
    "FixedPointSolver",
    "FixedStepSolver",
    "Means",
    "OdeSolution",
    "OdeSolver",
    "Order",
    "Picard",
    "Root",
    "Vjp",
    "alias",
    "batch_jacobian",
    "below_diagonal",
    "dual_gradient",
    "dual_order",
    "duality_map",
    "fixed_means",
    "functional_linearize",
    "householder",
    "implicit",
    "induced_power_iteration",
    "is_batched",
    "is_below",
    "norm_from_above",
    "order_norm",
    "order_number",
    "power_iteration",
    "random_reflections",
    "strictly_lower",
    "transforms_active",
    "two_stage_means",
    "without_transforms",
]
