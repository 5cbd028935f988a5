"""Triangles and orthonormal columns from vectors of free numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def strictly_lower(entries: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix ``(rows, columns)`` with `entries` below its diagonal, row by row, and zeros elsewhere.

    >>> strictly_lower(torch.tensor([1.0, 2.0, 3.0]), 3, 3).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 3.0, 0.0]]
    """
    row, column = torch.tril_indices(rows, columns, -1, device=entries.device)
    return entries.new_zeros(rows, columns).index_put((row, column), entries)


def below_diagonal(matrix: Tensor) -> Tensor:
    """The entries that `strictly_lower` takes."""
    if matrix.is_meta:  # only their number is wanted, and torch is slow to index what has no memory
        shorter = min(matrix.shape)
        return matrix.new_empty(matrix.shape[0] * shorter - shorter * (shorter + 1) // 2)
    row, column = torch.tril_indices(matrix.shape[0], matrix.shape[1], -1, device=matrix.device)
    return matrix[row, column]


def householder(entries: Tensor, rows: int, columns: int) -> Tensor:
    r"""The first columns of H_1 H_2 … with H_i = I - 2 v_i v_iᵀ / ‖v_i‖², v_i = (0, …, 0, 1, entries of column i).

    Orthonormal for every value of `entries`. Up to the signs of its columns every orthonormal ``(rows, columns)`` is
    of this form (Householder 1958), with the fewest numbers that can do it.

    Args:
        entries: as for `strictly_lower`.
        rows, columns: of the result, columns <= rows.

    >>> q = householder(torch.tensor([1.0, -2.0, 0.5]), 3, 2)
    >>> torch.allclose(q.T @ q, torch.eye(2), atol=1e-6)
    True
    """
    below = strictly_lower(entries, rows, columns)
    return torch.linalg.householder_product(below, 2 / (1 + below.square().sum(0)))


def random_reflections(rows: int, columns: int) -> Tensor:
    """Entries for `householder`, none above 1: Q is uniformly distributed up to the signs of its columns.

    Each v_i is the Householder vector of a Gaussian column; Stewart, The efficient generation of random orthogonal
    matrices, 1980. From torch's own generator.
    """
    gaussian = torch.randn(rows, columns).tril()
    return below_diagonal(gaussian / (gaussian.diagonal().abs() + gaussian.norm(dim=0)))
