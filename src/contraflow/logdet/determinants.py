"""Log-determinants of functions of a Jacobian J, each a power series in J: docs/maths/monotone-block.md."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Determinant(ABC):
    r"""log|det M(J)| for a function M with a power series where ‖J‖ < 1:

        log|det M(J)| = Σ_{k>=1} a_k tr Jᵏ,   ∂ log|det M(J)| = tr(B(J) ∂J),

    with B(J) = Σ_{k>=0} b_k Jᵏ and b_k = (k+1) a_{k+1}.
    """

    @abstractmethod
    def value_weight(self, k: int) -> float:
        """a_k."""

    @abstractmethod
    def gradient_weight(self, k: int) -> float:
        """b_k."""

    @abstractmethod
    def exact(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """log|det M(J)| ``(batch,)``, differentiable, and B(J) without gradient, for J ``(batch, D, D)``."""


class ResidualDeterminant(Determinant):
    """log|det(I + J)|, of a residual block: a_k = (-1)^(k+1)/k, B = (I + J)⁻¹."""

    def value_weight(self, k: int) -> float:
        return (1.0 if k % 2 else -1.0) / k

    def gradient_weight(self, k: int) -> float:
        return -1.0 if k % 2 else 1.0

    def exact(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        return _logdet_and_inverse(_identity(jacobian) + jacobian)


class CayleyDeterminant(Determinant):
    """log|det((I - J)(I + J)⁻¹)|, of a monotone block: a_k = -2/k for odd k and 0 for even k.

    B = -(I - J)⁻¹ - (I + J)⁻¹, so the products Jᵏv of even k serve the gradient and those of odd k the value.
    """

    def value_weight(self, k: int) -> float:
        return -2.0 / k if k % 2 else 0.0

    def gradient_weight(self, k: int) -> float:
        return 0.0 if k % 2 else -2.0

    def exact(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        identity = _identity(jacobian)
        minus, minus_inverse = _logdet_and_inverse(identity - jacobian)
        plus, plus_inverse = _logdet_and_inverse(identity + jacobian)
        return minus - plus, -minus_inverse - plus_inverse


RESIDUAL = ResidualDeterminant()
CAYLEY = CayleyDeterminant()


def _identity(jacobian: Tensor) -> Tensor:
    return torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)


def _logdet_and_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    logdet = torch.linalg.slogdet(matrix).logabsdet
    with torch.no_grad():
        return logdet, torch.linalg.inv(matrix)
