"""Conformance tests for bijections and log-determinant estimators, for those of this library and for your own.

>>> import torch
>>> from contraflow.bijections import ActNorm
>>> from contraflow.testing import check_bijection
>>> check_bijection(ActNorm(3), torch.randn(5, 3))

Every function returns ``None``, or raises an `AssertionError` that says which property is violated and by how much. The
functions need only torch and work with any test runner.
"""

from contraflow.testing.bijection_laws import (
    check_batches,
    check_bijection,
    check_dtypes,
    check_logdet,
    check_parameter_gradients,
    check_purity,
    check_randomness,
    check_round_trip,
    check_state,
)
from contraflow.testing.estimator_laws import check_estimator, check_probe_variance, check_unbiased

__all__ = [
    "check_batches",
    "check_bijection",
    "check_dtypes",
    "check_estimator",
    "check_logdet",
    "check_parameter_gradients",
    "check_probe_variance",
    "check_purity",
    "check_randomness",
    "check_round_trip",
    "check_state",
    "check_unbiased",
]
