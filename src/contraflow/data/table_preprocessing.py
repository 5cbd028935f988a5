"""Standardise the columns of a table, with the log-determinant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import DomainError, ShapeError


class TablePreprocessing(Bijection):
    """z = (x − mean) / std for rows x ``(batch, D)``; log|det| = −Σ log std, in nats.

    Args:
        mean, std: ``(D,)``, in the units of the columns.
        columns: their names, for messages.

    Raises:
        ShapeError: mean, std and columns have not one length.
        DomainError: a value is not finite, or a std is not positive.

    >>> table = TablePreprocessing(mean=[1.0, 2.0], std=[1.0, 4.0])
    >>> table(torch.tensor([[2.0, 6.0]]))
    tensor([[1., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float], columns: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        mean, std = (
            value.clone() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.get_default_dtype())
            for value in (mean, std)
        )
        if mean.dim() != 1 or mean.shape != std.shape or (columns is not None and len(columns) != len(mean)):
            raise ShapeError(
                f"mean, std and columns must have one length, got {tuple(mean.shape)}, {tuple(std.shape)}, "
                f"{None if columns is None else len(columns)}."
            )
        self.columns = None if columns is None else tuple(columns)
        for index, (centre, spread) in enumerate(zip(mean.tolist(), std.tolist(), strict=True)):
            if not (abs(centre) < float("inf") and 0 < spread < float("inf")):
                raise DomainError(
                    f"column {self._label(index)}: mean {centre}, std {spread}; expected finite, std > 0."
                )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, train: Tensor, columns: Sequence[str] | None = None) -> TablePreprocessing:
        """Mean and standard deviation of rows ``(n, D)``, computed in float64.

        Raises:
            ShapeError: train is not a table with rows.
            DomainError: a column is constant, or there is one row only.
        """
        if train.dim() != 2 or len(train) == 0:
            raise ShapeError(f"expected rows of shape (n, D), n >= 1, got {tuple(train.shape)}.")
        if len(train) == 1:
            raise DomainError("train has one row, so no column has a spread. Give at least two different rows.")
        rows = train.to(torch.float64)
        for index, column in enumerate(rows.unbind(1)):
            if bool((column == column[0]).all()):
                label = repr(columns[index]) if columns is not None else str(index)
                raise DomainError(
                    f"column {label} is constant ({column[0].item():g}) in train. Drop it: it has no density."
                )
        dtype = train.dtype if train.is_floating_point() else torch.get_default_dtype()
        return cls(rows.mean(0).to(dtype), rows.std(0, correction=0).to(dtype), columns)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Standardised rows and −Σ log std.

        Raises:
            ShapeError: x is not ``(batch, D)``.
        """
        mean, std = self._like(x)
        return (x - mean) / std, -std.log().sum().expand(len(x))

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows in the units of the columns and Σ log std.

        Raises:
            ShapeError: z is not ``(batch, D)``.
        """
        mean, std = self._like(z)
        return z * std + mean, std.log().sum().expand(len(z))

    def inverse_lipschitz_bound(self) -> float:
        return self.std.max().item()

    def config(self) -> dict[str, Any]:
        """The arguments as plain values, for `preprocessing_from_config`."""
        columns = None if self.columns is None else list(self.columns)
        return {"kind": "table", "mean": self.mean.tolist(), "std": self.std.tolist(), "columns": columns}

    def extra_repr(self) -> str:
        return f"{len(self.mean)} columns"

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 2 or x.shape[1] != len(self.mean) or not x.is_floating_point():
            raise ShapeError(f"expected floating-point rows (batch, {len(self.mean)}), got {x.dtype} {tuple(x.shape)}.")
        return self.mean.to(x), self.std.to(x)

    def _label(self, index: int) -> str:
        return str(index) if self.columns is None else repr(self.columns[index])
