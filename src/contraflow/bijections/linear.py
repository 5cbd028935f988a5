"""Linear maps of features or channels, factorised so that determinants and inverses are cheap."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import InversionError, ShapeError, unknown_name
from contraflow.numerics import below_diagonal, householder, random_reflections, strictly_lower


class LinearMap(Bijection):
    r"""z = W x along dimension 1, with the same W at every position; log|det| = (positions)·log|det W|.

    For vectors ``(batch, features)`` this is a linear layer, for images ``(batch, channels, H, W)`` an invertible 1×1
    convolution. W is initialised by a random orthogonal matrix, drawn from torch's global generator.

    Args:
        features: size of dimension 1.

    Raises:
        ShapeError: an input has another number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise ShapeError(f"{type(self).__name__}({features}): a linear map needs at least one feature.")
        self.features = features

    @abstractmethod
    def weight(self) -> Tensor:
        """W, ``(features, features)``."""

    @abstractmethod
    def weight_logdet(self) -> Tensor:
        """log|det W|, a scalar."""

    @abstractmethod
    def solve(self, columns: Tensor) -> Tensor:
        """W⁻¹ times a matrix ``(features, columns)``."""

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        columns = self._columns(x)
        return self._events(self.weight() @ columns, x), self._logdet(x)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        columns = self._columns(z)
        return self._events(self.solve(columns), z), -self._logdet(z)

    def inverse_lipschitz_bound(self) -> float:
        """1 / σ_min(W)."""
        with torch.no_grad():
            return torch.linalg.matrix_norm(self.weight().double(), -2).reciprocal().item()

    def _columns(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.features:
            raise ShapeError(f"{type(self).__name__}({self.features}) got an input of shape {tuple(x.shape)}.")
        return x.transpose(0, 1).flatten(1)

    def _events(self, columns: Tensor, like: Tensor) -> Tensor:
        return columns.reshape(self.features, len(like), *like.shape[2:]).transpose(0, 1)

    def _logdet(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.weight_logdet()).expand(len(x))

    def extra_repr(self) -> str:
        return str(self.features)


class MatrixLinear(LinearMap):
    r"""An unconstrained matrix W; log|det W| and W⁻¹ cost O(features³).

    Only the likelihood keeps W away from singular matrices. Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039).

    Args:
        features: size of dimension 1.

    Raises:
        InversionError: W is singular, on an inverse.

    >>> z, logdet = MatrixLinear(3).forward_and_logdet(torch.randn(5, 3))
    >>> bool(logdet.abs().max() < 1e-5)
    True
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.matrix = nn.Parameter(_random_orthogonal(features))

    def weight(self) -> Tensor:
        return self.matrix

    def weight_logdet(self) -> Tensor:
        return torch.linalg.slogdet(self.matrix)[1]

    def solve(self, columns: Tensor) -> Tensor:
        solution, info = torch.linalg.solve_ex(self.matrix, columns)
        if bool(info):
            raise InversionError(
                f"the weight of MatrixLinear({self.features}) is singular, so it has no inverse. "
                "Train with a smaller learning rate, or use PLULinear or QRLinear, which cannot become singular."
            )
        return solution


class PLULinear(LinearMap):
    r"""W = P L (U + diag(s)); log|det W| = Σ log|s|; an inverse takes two triangular solves, O(features²) per position.
    L is unit lower triangular and U strictly upper triangular. The permutation P and the signs of s are fixed at
    initialisation; log|s| is learned, so W is never singular. Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039).

    Args:
        features: size of dimension 1.

    >>> z, logdet = PLULinear(3).forward_and_logdet(torch.randn(5, 3, 2, 2))
    >>> z.shape, logdet.shape
    (torch.Size([5, 3, 2, 2]), torch.Size([5]))
    """

    order: Tensor
    sign: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        permutation, lower, upper = torch.linalg.lu(_random_orthogonal(features))
        diagonal = upper.diagonal()
        self.register_buffer("order", permutation.argmax(1))
        self.register_buffer("sign", diagonal.sign())
        self.log_scale = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(below_diagonal(lower))
        self.upper = nn.Parameter(below_diagonal(upper.T))

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s)."""
        n = self.features
        lower = strictly_lower(self.lower, n, n) + torch.eye(n, dtype=self.lower.dtype, device=self.lower.device)
        return lower, strictly_lower(self.upper, n, n).T + torch.diag(self.sign * self.log_scale.exp())

    def weight(self) -> Tensor:
        lower, upper = self.factors()
        return (lower @ upper)[self.order]

    def weight_logdet(self) -> Tensor:
        return self.log_scale.sum()

    def solve(self, columns: Tensor) -> Tensor:
        lower, upper = self.factors()
        half = torch.linalg.solve_triangular(lower, columns[self.order.argsort()], upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, half, upper=True)


class QRLinear(LinearMap):
    r"""W = Q R; log|det W| = Σ log r_ii; the inverse takes a transpose and a triangular solve.

    Q is a product of Householder reflections and R is upper triangular with a positive diagonal r_ii = exp(log_scale).
    W is therefore never singular and has the condition number of R. Every invertible W has this form up to a
    reflection. Hoogeboom, van den Berg and Welling, Emerging convolutions, 2019 (arXiv:1901.11137).

    Args:
        features: size of dimension 1.

    >>> z, logdet = QRLinear(3).forward_and_logdet(torch.randn(5, 3))
    >>> logdet.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.reflections = nn.Parameter(random_reflections(features, features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.upper = nn.Parameter(torch.zeros(features * (features - 1) // 2))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Q and R."""
        n = self.features
        return householder(self.reflections, n, n), strictly_lower(self.upper, n, n).T + self.log_scale.exp().diag()

    def weight(self) -> Tensor:
        q, r = self.factors()
        return q @ r

    def weight_logdet(self) -> Tensor:
        return self.log_scale.sum()

    def solve(self, columns: Tensor) -> Tensor:
        q, r = self.factors()
        return torch.linalg.solve_triangular(r, q.T @ columns, upper=True)


class OrthogonalLinear(LinearMap):
    r"""An orthogonal W; log|det W| = 0 and W⁻¹ = Wᵀ.

    - ``"householder"``: W is a product of as many Householder reflections as features, with determinant (-1)^features.
      Tomczak and Welling 2016 (arXiv:1611.09630).
    - ``"exponential"``: W = exp(A - Aᵀ) for a strictly lower triangular A, which reaches every rotation. Lezcano-Casado
      and Martínez-Rubio 2019 (arXiv:1901.08428).

    Both have features·(features - 1)/2 parameters.

    Args:
        features: size of dimension 1.
        parametrisation: ``"householder"`` or ``"exponential"``.

    Raises:
        ConfigurationError: the parametrisation is unknown.

    >>> x = torch.randn(5, 3)
    >>> torch.allclose(OrthogonalLinear(3)(x).norm(dim=1), x.norm(dim=1))
    True
    """

    def __init__(self, features: int, parametrisation: str = "householder") -> None:
        super().__init__(features)
        if parametrisation not in _ORTHOGONAL:
            raise unknown_name("parametrisation", parametrisation, _ORTHOGONAL)
        self.parametrisation = parametrisation
        if parametrisation == "householder":
            self.entries = nn.Parameter(random_reflections(features, features))
        else:
            self.entries = nn.Parameter(torch.randn(features * (features - 1) // 2) / math.sqrt(features))

    def weight(self) -> Tensor:
        return _ORTHOGONAL[self.parametrisation](self.entries, self.features)

    def weight_logdet(self) -> Tensor:
        return self.entries.new_zeros(())

    def solve(self, columns: Tensor) -> Tensor:
        return self.weight().T @ columns

    def extra_repr(self) -> str:
        return f"{self.features}, {self.parametrisation!r}"


def _rotation(entries: Tensor, features: int) -> Tensor:
    lower = strictly_lower(entries, features, features)
    return torch.linalg.matrix_exp(lower - lower.T)


def _reflected(entries: Tensor, features: int) -> Tensor:
    return householder(entries, features, features)


_ORTHOGONAL = {"householder": _reflected, "exponential": _rotation}


def _random_orthogonal(features: int) -> Tensor:
    placeholder = torch.empty(features, features)
    if placeholder.is_meta:  # only the shape is needed
        return placeholder
    return householder(random_reflections(features, features), features, features)
