"""Scale the columns of a table, in float64, with the log-determinant."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import DomainError, ShapeError, unknown_name
from contraflow.preprocessing.dequantisation import dequantise

SCALINGS = ("standard", "robust")

Range = Sequence[float]

_BEND = 3.0  # where the robust scaling turns from a line to a logarithm, in standard deviations of a normal column
_SMALLEST = torch.finfo(torch.float64).tiny  # below it digits are missing

#: Share of a column below a quantile → that quantile of a standard normal, with its sign turned.
_NORMAL_QUANTILES = {0.25: 0.6744897501960817, 0.05: 1.6448536269514722, 0.01: 2.3263478740408408}


class TablePreprocessing(Bijection):
    r"""Rows x ``(batch, D)`` in the units of their columns to numbers near 1, column by column:

        t = (x − mean) / std,   z = t                (standard),   log|det| = −Σ log std, or
                                z = 3 asinh(t / 3)   (robust),     log|det| = −Σ log std − Σ log √(1 + (t/3)²), in nats.

    The robust scaling takes median and interquartile range for mean and std. It leaves what lies within three of the
    latter nearly as it is, and beyond them z grows like log |x|, to 82 for t = 10¹²: an outlier neither sets the scale
    of the others nor leaves the range in which a flow works.

    A column of integers has probabilities and no density. Dequantised, u ~ U[0, 1) is added to it first, so that log p
    has a lower bound of the column's log-probability as its mean (Theis et al. 2016, as for images); the step between
    integers is 1 and its logarithm 0. `quantise` gives integers back.

    All is computed in float64, whatever `float()` and `double()` make of the flow, and given back in the dtype of x or
    z. A `Flow` hands it float64 and integer data as they are, casts z afterwards, and returns x in float64.

    Args:
        mean, std: ``(D,)``, in the units of the columns; of a robust scaling, median and interquartile range / 1.349.
        columns: their names, for messages.
        scaling: standard or robust.
        ranges: for every column lowest and highest integer seen, where it is dequantised, and None where it is not.

    Raises:
        ShapeError: mean, std, columns and ranges have not one length.
        DomainError: a value is not finite, or a std is not positive.
        ConfigurationError: unknown scaling.

    >>> table = TablePreprocessing(mean=[1.0, 2.0], std=[1.0, 4.0])
    >>> table(torch.tensor([[2.0, 6.0]]))
    tensor([[1., 1.]])
    """

    in_float64 = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        columns: Sequence[str] | None = None,
        scaling: str = "standard",
        ranges: Sequence[Range | None] | None = None,
    ) -> None:
        super().__init__()
        mean, std = (torch.as_tensor(value, dtype=torch.float64).clone() for value in (mean, std))
        if scaling not in SCALINGS:
            raise unknown_name("scaling", scaling, SCALINGS)
        others = [len(one) for one in (columns, ranges) if one is not None]
        if mean.dim() != 1 or mean.shape != std.shape or set(others) - {len(mean)}:
            raise ShapeError(
                f"mean, std, columns and ranges must have one length, got {tuple(mean.shape)}, {tuple(std.shape)}, "
                f"{others}."
            )
        self.columns = None if columns is None else tuple(columns)
        self.scaling = scaling
        integers = {} if ranges is None else {index: one for index, one in enumerate(ranges) if one is not None}
        self.ranges = {index: (float(low), float(high)) for index, (low, high) in integers.items()}
        for index, (centre, spread) in enumerate(zip(mean.tolist(), std.tolist(), strict=True)):
            if not (abs(centre) < math.inf and _SMALLEST <= spread < math.inf):
                raise DomainError(
                    f"column {self._label(index)}: mean {centre}, std {spread}; expected finite, std > 0. Rescale it."
                )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(
        cls,
        train: Tensor,
        columns: Sequence[str] | None = None,
        *,
        scaling: str = "standard",
        dequantise: Collection[int] = (),
    ) -> TablePreprocessing:
        """The scaling of rows ``(n, D)``, computed in float64.

        Args:
            train: the rows.
            columns: their names, for messages.
            scaling: standard, by mean and standard deviation, or robust, by median and interquartile range (by wider
                quantiles, at last by the standard deviation, where half of a column is one number).
            dequantise: indices of the columns of integers to dequantise.

        Raises:
            ShapeError: train is not a table with rows.
            DomainError: a column is constant or to be dequantised and not of integers, or there is one row only.
        """
        if train.dim() != 2 or len(train) == 0:
            raise ShapeError(f"expected rows of shape (n, D), n >= 1, got {tuple(train.shape)}.")
        if len(train) == 1:
            raise DomainError("train has one row, so no column has a spread. Give at least two different rows.")
        moments: list[tuple[float, float]] = []
        ranges: list[Range | None] = []
        find = _quantile_moments if scaling == "robust" else _moments
        for index, column in enumerate(train.to(torch.float64).unbind(1)):
            label = repr(columns[index]) if columns is not None else str(index)
            low, high = column.min().item(), column.max().item()
            if low == high:
                hint = _rounded(train, low)
                raise DomainError(
                    f"column {label} is constant ({low:.10g}) in train. Drop it: it has no density.{hint}"
                )
            centre, spread = find(column)
            if index in dequantise:
                if (bad := column != column.floor()).any():
                    raise DomainError(
                        f"column {label} holds {column[bad][0].item():.10g}: only columns of integers can be "
                        "dequantised. Take it out of data.dequantise, or rescale it to integers."
                    )
                centre, spread = centre + 0.5, math.hypot(spread, math.sqrt(1 / 12))
            moments.append((centre, spread or _moments(column)[1]))
            ranges.append((low, high) if index in dequantise else None)
        mean, std = zip(*moments, strict=True)
        return cls(mean, std, columns, scaling, ranges if dequantise else None)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scaled rows and log|det|; the noise of dequantised columns is drawn from `generator`.

        Raises:
            ShapeError: x is not ``(batch, D)``.
            DomainError: a dequantised column does not hold integers.
        """
        self._check(x)
        t = (self._dequantise(x.double(), generator) - self.mean) / self.std
        z = t if self.scaling == "standard" else _BEND * (t / _BEND).asinh()
        return z.to(x.dtype), self._logdet(t).to(x.dtype)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows in the units of the columns and log|det|; those of dequantised columns are real numbers.

        Raises:
            ShapeError: z is not ``(batch, D)``.
        """
        self._check(z)
        t = z.double() if self.scaling == "standard" else _BEND * (z.double() / _BEND).sinh()
        return (t * self.std + self.mean).to(z.dtype), -self._logdet(t).to(z.dtype)

    def inverse_lipschitz_bound(self) -> float:
        return self.std.max().item() if self.scaling == "standard" else math.inf

    def quantise(self, x: Tensor) -> Tensor:
        """Rows whose dequantised columns are integers again: floor, within the range seen in training.

        >>> table = TablePreprocessing([0.5, 0.0], [1.0, 1.0], ranges=[(0, 1), None])
        >>> table.quantise(torch.tensor([[0.3, 0.3], [2.1, -1.0]]))
        tensor([[ 0.0000,  0.3000],
                [ 1.0000, -1.0000]])
        """
        x = x.clone()
        for index, (low, high) in self.ranges.items():
            x[:, index] = x[:, index].floor().clamp(low, high)
        return x

    def config(self) -> dict[str, Any]:
        """The arguments as plain values, for `preprocessing_from_config`."""
        found: dict[str, Any] = {"kind": "table", "mean": self.mean.tolist(), "std": self.std.tolist()}
        found["columns"] = None if self.columns is None else list(self.columns)
        found["scaling"] = self.scaling
        found["ranges"] = [self.ranges.get(index) for index in range(len(self.mean))] if self.ranges else None
        return found

    def extra_repr(self) -> str:
        dequantised = f", {len(self.ranges)} of them dequantised" if self.ranges else ""
        return f"{len(self.mean)} columns, {self.scaling}{dequantised}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TablePreprocessing:
        """Another device, and always float64: a mean of 1.7e9 s in float32 is off by up to 64 s."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, now in self._buffers.items():
            if now is not None and (exact := before[name]) is not None:
                self._buffers[name] = now.double() if exact.is_meta else exact.to(now.device)
        return self

    def _logdet(self, t: Tensor) -> Tensor:
        """log|det ∂z/∂x|, ``(batch,)``."""
        scale = -self.std.log().sum().expand(len(t))
        if self.scaling == "standard":
            return scale
        return scale - torch.hypot(torch.ones_like(t), t / _BEND).log().sum(dim=1)  # t² would overflow

    def _dequantise(self, x: Tensor, generator: Generator | None) -> Tensor:
        if not self.ranges:
            return x
        chosen = list(self.ranges)
        integers = x[:, chosen]
        if bool((bad := integers != integers.floor()).any()):
            row, place = bad.nonzero()[0].tolist()
            raise DomainError(
                f"column {self._label(chosen[place])} is dequantised, so it takes integers; sample {row} holds "
                f"{integers[row, place].item():.10g}."
            )
        return x.index_copy(1, torch.tensor(chosen, device=x.device), dequantise(integers, generator))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != len(self.mean) or not x.is_floating_point():
            raise ShapeError(f"expected floating-point rows (batch, {len(self.mean)}), got {x.dtype} {tuple(x.shape)}.")

    def _label(self, index: int) -> str:
        return str(index) if self.columns is None else repr(self.columns[index])


def _rounded(train: Tensor, value: float) -> str:
    """A hint where float32 may have made a column constant."""
    step = torch.nextafter(torch.tensor(abs(value)).float(), torch.tensor(math.inf)).item() - abs(value)
    if train.dtype != torch.float32 or step < 2:
        return ""
    return f" Or float32 made it so, which holds only every {step:.0f}th number there: give float64."


def _moments(column: Tensor) -> tuple[float, float]:
    """Mean and standard deviation, by way of numbers near 1, whose squares cannot overflow."""
    middle = column.mean()
    size = (column - middle).abs().max()
    return middle.item(), (size * ((column - middle) / size).square().mean().sqrt()).item()


def _quantile_moments(column: Tensor) -> tuple[float, float]:
    """Median, and the interquartile range over that of a standard normal; wider quantiles, or 0, where it is 0."""
    order = column.sort().values
    last = len(order) - 1
    median = order[last // 2].item()
    for share, quantile in _NORMAL_QUANTILES.items():
        spread = (order[last - round(share * last)] - order[round(share * last)]).item()
        if spread > 0:
            return median, spread / (2 * quantile)
    return median, 0.0
