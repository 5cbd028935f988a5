"""A data set in memory: three splits, their labels, levels, columns and density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.data.toy_density import ToyDensity
from contraflow.errors import DataError

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test rows of one data set.

    Attributes:
        name: name or path it was loaded from.
        train, validation, test: images uint8 ``(n, C, H, W)``, or continuous rows float32 or float64 ``(n, D)``.
        train_labels, validation_labels, test_labels: int64 ``(n,)``, or ``None``.
        levels: number of integer levels of a pixel (256 for bytes, 17 for the digits), ``None`` for continuous data.
        columns: names of the columns of a table, or ``None``.
        density: the density that the rows were drawn from, where it is known.
        test_only: only test rows exist; train and validation are empty. For out-of-distribution sets.

    Raises:
        DataError: shapes, dtypes or lengths disagree, a value is not finite or not below `levels`, a split is empty.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    test_labels: Tensor | None = None
    levels: int | None = None
    columns: tuple[str, ...] | None = None
    density: ToyDensity | None = None
    test_only: bool = False

    def __post_init__(self) -> None:
        self._check_columns()
        for split in _SPLITS:
            self._check_rows(split)
            self._check_labels(split)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one row: ``(C, H, W)`` or ``(D,)``."""
        return tuple(self.test.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether rows are integer-valued images, which need dequantisation."""
        return self.levels is not None

    def require_train(self) -> Dataset:
        """This data set, where it has rows to train on.

        Raises:
            DataError: the set has test rows only.
        """
        if self.test_only:
            raise DataError(
                f"{self.name}: only its test files are present, so there is nothing to train on. Put the train files "
                f"beside them (`contraflow data fetch {self.name}`), or use it for evaluation only."
            )
        return self

    def _fail(self, split: str, problem: str) -> DataError:
        return DataError(f"data set {self.name!r}, {split}: {problem}")

    def _check_rows(self, split: str) -> None:
        rows = getattr(self, split)
        dimensions = 4 if self.is_image else 2
        dtypes = (torch.uint8,) if self.is_image else (torch.float32, torch.float64)
        if rows.dim() != dimensions or rows.dtype not in dtypes or rows.dtype != self.test.dtype:
            kind = "uint8 images (n, C, H, W)" if self.is_image else "float32 or float64 rows (n, D), one dtype for all"
            raise self._fail(split, f"expected {kind}, got {rows.dtype} of shape {tuple(rows.shape)}.")
        if tuple(rows.shape[1:]) != self.event_shape or 0 in self.event_shape:
            raise self._fail(split, f"a row has shape {tuple(rows.shape[1:])}, in test it has {self.event_shape}.")
        meant_empty = self.test_only and split != "test"
        if (len(rows) == 0) != meant_empty:
            expected = "no rows, because test_only=True" if meant_empty else "at least one row"
            raise self._fail(split, f"expected {expected}, got {len(rows)}.")
        self._check_values(split, rows)

    def _check_values(self, split: str, rows: Tensor) -> None:
        if len(rows) == 0:
            return
        if self.levels is not None:
            if not 2 <= self.levels <= 256:
                raise self._fail(split, f"levels must lie in 2…256, got {self.levels}.")
            if int(rows.max()) >= self.levels:
                raise self._fail(split, f"pixel {int(rows.max())} found, but levels={self.levels} allows 0…levels-1.")
        elif not bool(torch.isfinite(rows).all()):
            row, column = torch.nonzero(~torch.isfinite(rows))[0].tolist()
            name = column if self.columns is None else repr(self.columns[column])
            raise self._fail(split, f"{rows[row, column].item()} in row {row}, column {name}; values must be finite.")

    def _check_labels(self, split: str) -> None:
        labels = getattr(self, f"{split}_labels")
        if labels is None:
            return
        rows = len(getattr(self, split))
        if labels.dtype != torch.int64 or tuple(labels.shape) != (rows,):
            raise self._fail(split, f"expected {rows} int64 labels, got {labels.dtype} of shape {tuple(labels.shape)}.")

    def _check_columns(self) -> None:
        if self.columns is not None and (len(self.columns),) != self.event_shape:
            raise self._fail("columns", f"{len(self.columns)} names for rows of shape {self.event_shape}.")
