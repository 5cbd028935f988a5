"""Preprocessing of tables for a flow: scaling and dequantisation of columns, in float64."""

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

_KNEE = 3.0  # where the robust scaling turns from linear to logarithmic, in standard deviations of a normal column
_SMALLEST = torch.finfo(torch.float64).tiny  # smaller numbers are subnormal and have fewer digits

#: Share of a column below a quantile → that quantile of a standard normal, without its minus sign.
_NORMAL_QUANTILES = {0.25: 0.6744897501960817, 0.05: 1.6448536269514722, 0.01: 2.3263478740408408}


class TablePreprocessing(Bijection):
    r"""Scaling of the columns of a table, from their own units to numbers of the order of 1.

        t = (x − mean) / std,   z = t                (standard),   log|det| = −Σ log std, or
                                z = 3 asinh(t / 3)   (robust),     log|det| = −Σ log std − Σ log √(1 + (t/3)²), in nats.

    The robust scaling uses the median as mean and the interquartile range, divided by 1.349, as std. It is nearly
    linear for |t| < 3 and logarithmic beyond, with z = 82 for t = 10¹². An outlier therefore does not determine the
    scale of the other values, and itself stays in the range in which a flow works.

    A column of integers has probabilities and no density. If it is dequantised, noise u ~ U[0, 1) is added first, so
    that the mean of log p is a lower bound of the column's log-probability (Theis et al. 2016, as for images). The step
    between integers is 1, so no log-determinant arises from it. `quantise` returns to integers.

    All computations are in float64, also after `float()` on the flow, and results have the dtype of x or z. A `Flow`
    passes float64 and integer data on in float64, casts z to its own dtype, and returns x in float64.

    Args:
        mean, std: ``(D,)``, in the units of the columns.
        columns: names of the columns, for messages.
        scaling: ``"standard"`` or ``"robust"``.
        ranges: for each dequantised column the smallest and largest integer in training, and None for other columns.

    Raises:
        ShapeError: mean, std, columns and ranges have different lengths.
        DomainError: a value is not finite, or a std is not positive.
        ConfigurationError: the scaling is unknown.

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
        lengths = [len(values) for values in (columns, ranges) if values is not None]
        if mean.dim() != 1 or mean.shape != std.shape or set(lengths) - {len(mean)}:
            raise ShapeError(
                f"mean, std, columns and ranges must have the same length, got {tuple(mean.shape)}, "
                f"{tuple(std.shape)}, {lengths}."
            )
        self.columns = None if columns is None else tuple(columns)
        self.scaling = scaling
        limits = [] if ranges is None else [(index, limit) for index, limit in enumerate(ranges) if limit is not None]
        self.ranges = {index: (float(low), float(high)) for index, (low, high) in limits}
        self.dequantisation = "uniform" if self.ranges else None
        for index, (centre, spread) in enumerate(zip(mean.tolist(), std.tolist(), strict=True)):
            if not (abs(centre) < math.inf and _SMALLEST <= spread < math.inf):
                raise DomainError(
                    f"column {self._label(index)} has mean {centre} and std {spread}; both must be finite and std "
                    "positive. Rescale the column."
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
        """The preprocessing fitted to training rows ``(n, D)``, in float64.

        Args:
            train: the training rows.
            columns: names of the columns, for messages.
            scaling: ``"standard"``, by mean and standard deviation, or ``"robust"``, by median and interquartile range.
                If at least half of a column is a single number, wider quantiles or the standard deviation are used.
            dequantise: indices of the columns of integers to dequantise.

        Raises:
            ShapeError: train is not a table with rows.
            DomainError: there is only one row, a column is constant, or a column to dequantise holds fractions.
        """
        if train.dim() != 2 or len(train) == 0:
            raise ShapeError(f"expected rows of shape (n, D), n >= 1, got {tuple(train.shape)}.")
        if len(train) == 1:
            raise DomainError("train has one row, so no column has a spread. Give at least two different rows.")
        moments: list[tuple[float, float]] = []
        ranges: list[Range | None] = []
        measure = _quantile_moments if scaling == "robust" else _moments
        for index, column in enumerate(train.to(torch.float64).unbind(1)):
            label = repr(columns[index]) if columns is not None else str(index)
            low, high = column.min().item(), column.max().item()
            if low == high:
                hint = _rounding_hint(train, low)
                raise DomainError(
                    f"column {label} is constant ({low:.10g}) in train. Drop it: it has no density.{hint}"
                )
            centre, spread = measure(column)
            if index in dequantise:
                if (fractions := column != column.floor()).any():
                    raise DomainError(
                        f"column {label} holds {column[fractions][0].item():.10g}: only columns of integers can be "
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
        z = t if self.scaling == "standard" else _KNEE * (t / _KNEE).asinh()
        return z.to(x.dtype), self._logdet(t).to(x.dtype)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows in the units of the columns, with real numbers in dequantised columns, and log|det|.

        Raises:
            ShapeError: z is not ``(batch, D)``.
        """
        self._check(z)
        t = z.double() if self.scaling == "standard" else _KNEE * (z.double() / _KNEE).sinh()
        return (t * self.std + self.mean).to(z.dtype), -self._logdet(t).to(z.dtype)

    def inverse_lipschitz_bound(self) -> float:
        return self.std.max().item() if self.scaling == "standard" else math.inf

    def quantise(self, x: Tensor) -> Tensor:
        """Rows with dequantised columns rounded down to integers and clamped to their range in training.

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
        return {
            "kind": "table",
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "columns": None if self.columns is None else list(self.columns),
            "scaling": self.scaling,
            "ranges": [self.ranges.get(index) for index in range(len(self.mean))] if self.ranges else None,
        }

    def extra_repr(self) -> str:
        dequantised = f", {len(self.ranges)} of them dequantised" if self.ranges else ""
        return f"{len(self.mean)} columns, {self.scaling}{dequantised}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TablePreprocessing:
        """Keep mean and std in float64 on every device: in float32 a mean of 1.7e9 would be off by up to 64."""
        originals = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            if moved is not None and (original := originals[name]) is not None:
                self._buffers[name] = moved.double() if original.is_meta else original.to(moved.device)
        return self

    def _logdet(self, t: Tensor) -> Tensor:
        """log|det ∂z/∂x|, ``(batch,)``."""
        scale = -self.std.log().sum().expand(len(t))
        if self.scaling == "standard":
            return scale
        return scale - torch.hypot(torch.ones_like(t), t / _KNEE).log().sum(dim=1)  # t² would overflow

    def _dequantise(self, x: Tensor, generator: Generator | None) -> Tensor:
        if not self.ranges:
            return x
        columns = list(self.ranges)
        integers = x[:, columns]
        if bool((fractions := integers != integers.floor()).any()):
            row, position = fractions.nonzero()[0].tolist()
            raise DomainError(
                f"column {self._label(columns[position])} is dequantised, so it takes integers; sample {row} holds "
                f"{integers[row, position].item():.10g}."
            )
        return x.index_copy(1, torch.tensor(columns, device=x.device), dequantise(integers, generator))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != len(self.mean) or not x.is_floating_point():
            raise ShapeError(f"expected floating-point rows (batch, {len(self.mean)}), got {x.dtype} {tuple(x.shape)}.")

    def _label(self, index: int) -> str:
        return str(index) if self.columns is None else repr(self.columns[index])


def _rounding_hint(train: Tensor, value: float) -> str:
    """A hint for the case that rounding to float32 has made a column constant."""
    step = torch.nextafter(torch.tensor(abs(value)).float(), torch.tensor(math.inf)).item() - abs(value)
    if train.dtype != torch.float32 or step < 2:
        return ""
    return f" Or rounding to float32, whose numbers are {step:.0f} apart there, made it constant: give float64."


def _moments(column: Tensor) -> tuple[float, float]:
    """Mean and standard deviation, computed from scaled numbers, whose squares cannot overflow."""
    mean = column.mean()
    largest = (column - mean).abs().max()
    return mean.item(), (largest * ((column - mean) / largest).square().mean().sqrt()).item()


def _quantile_moments(column: Tensor) -> tuple[float, float]:
    """Median, and interquartile range divided by that of a standard normal.

    Where the interquartile range is 0, wider quantiles take its place; where they are 0 too, the spread is 0.
    """
    ordered = column.sort().values
    last = len(ordered) - 1
    median = ordered[last // 2].item()
    for share, quantile in _NORMAL_QUANTILES.items():
        spread = (ordered[last - round(share * last)] - ordered[round(share * last)]).item()
        if spread > 0:
            return median, spread / (2 * quantile)
    return median, 0.0
