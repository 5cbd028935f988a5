"""Why a column of a table may have no density: too few values, integers, outliers, digits lost in float32."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow.errors import ConfigurationError, DataError

FEW_INTEGERS = 20
"""A column with at most this many different integers has no density."""
FEW_VALUES = 10
"""A column with at most this many different other numbers has no density."""
_COARSE = 100.0  # standard deviation below which steps of 1 between integers show in a density
_ATOM = 0.1  # share of the rows that one value may have
_LOST = 0.1  # share of the different values that may become equal to others
_FAR = 100.0  # standard deviation over that of the middle half


@dataclass(frozen=True)
class Column:
    """The numbers of one column.

    Attributes:
        name: its name in the file, or its index.
        values: its different values in ascending order, float64.
        counts: how often each occurs.
    """

    name: str
    values: Tensor
    counts: Tensor

    @property
    def integers(self) -> bool:
        """Whether all values are integers."""
        return bool((self.values == self.values.floor()).all())

    @property
    def few(self) -> bool:
        """Whether it has no density: few values, each of which occurs in two rows or more on average."""
        most = FEW_INTEGERS if self.integers else FEW_VALUES
        return len(self.values) <= most and 2 * len(self.values) <= int(self.counts.sum())


def column_names(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the columns in messages and options: those of the file, or 0, 1, …"""
    return tuple(str(index) for index in range(count)) if names is None else tuple(names)


def columns_of(rows: Tensor, names: Sequence[str] | None) -> list[Column]:
    """The columns of rows ``(n, D)``."""
    columns = []
    for name, column in zip(column_names(rows.shape[1], names), rows.double().unbind(1), strict=True):
        values, counts = column.sort().values.unique_consecutive(return_counts=True)
        columns.append(Column(name, values, counts))
    return columns


def indices_of(wanted: Sequence[str | int], count: int, names: Sequence[str] | None) -> list[int]:
    """Indices of the columns that data.dequantise names, each once.

    Raises:
        ConfigurationError: there is no such column.

    >>> indices_of(["age", "flag"], 3, ["flag", "income", "age"]), indices_of([1], 3, None)
    ([0, 2], [1])
    """
    known = column_names(count, names)
    for name in map(str, wanted):
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigurationError(f"data.dequantise: no column {name!r}.{hint} Columns: {', '.join(known)}.")
    return sorted({known.index(str(name)) for name in wanted})


def refuse_columns_without_density(
    source: str, columns: Sequence[Column], dequantised: Collection[int], named: bool
) -> None:
    """Raise an error unless every column has a density or is dequantised.

    Args:
        source: of the rows, for the message.
        columns: of the training rows.
        dequantised: indices of the columns that get noise.
        named: whether the columns have names, so that data.columns can choose among them.

    Raises:
        DataError: a column holds few values; the message names all such columns, and the choices.
    """
    few = [column for index, column in enumerate(columns) if column.few and index not in dequantised]
    if not few:
        return
    listed = ", ".join(f"{column.name!r} ({_count(column)})" for column in few)
    kept = ",".join(column.name for column in columns if column not in few)
    choices = [f"drop {'them' if len(few) > 1 else 'it'}" + (f" (data.columns=[{kept}])" if named and kept else "")]
    if integers := [column.name for column in few if column.integers and len(column.values) > 1]:
        wanted = ",".join([*(columns[index].name for index in dequantised), *integers])
        choices.append(f"dequantise integers (data.dequantise=[{wanted}])")
    if any(not column.integers for column in few):
        choices.append("rescale other numbers to integers and dequantise them")
    raise DataError(
        f"{source}: no density in {'columns' if len(few) > 1 else 'column'} {listed}: a flow would learn ever higher "
        f"peaks at so few values. The choices: {', or '.join(choices)}."
    )


def remarks(
    columns: Sequence[Column], dequantised: Collection[int], scaling: str | None, scaled: Sequence[Tensor]
) -> list[str]:
    """Warnings about columns that can be trained on, a line each.

    Args:
        columns: of the training rows.
        dequantised: indices of the columns that get noise.
        scaling: standard or robust; None for none.
        scaled: the values of every column as the flow is given them.
    """
    lines = []
    for index, (column, after) in enumerate(zip(columns, scaled, strict=True)):
        if index not in dequantised:
            lines += [*_discrete(column), *_merged(column, after, scaling)]
        if scaling == "standard":
            lines += _outliers(column)
    return lines


def _discrete(column: Column) -> list[str]:
    total = int(column.counts.sum())
    most = int(column.counts.argmax())
    share = column.counts[most].item() / total
    if column.integers and column.counts.max() > 1 and _spread(column) < _COARSE:
        return [
            f"column {column.name!r} holds integers ({_count(column)}): log p(x) can rise without bound as a flow "
            f"learns the gaps between them. With {column.name} in data.dequantise it is a bound on a log-probability."
        ]
    if share >= _ATOM and total >= FEW_VALUES / _ATOM:
        return [
            f"column {column.name!r} is {column.values[most].item():.10g} in {share:.0%} of the rows: so many equal "
            "numbers have no density, and log p(x) can rise without bound there."
        ]
    return []


def _merged(column: Column, after: Tensor, scaling: str | None) -> list[str]:
    left = len(after.unique_consecutive())
    if len(column.values) - left <= _LOST * len(column.values):
        return []
    remedies = ["dtype=float64"] if after.dtype == torch.float32 else []
    if scaling != "robust":
        remedies.append(f"preprocessing.kind={'standardise' if scaling is None else 'robust'}")
    return [
        f"column {column.name!r}: its {len(column.values)} different values are {left} for the flow, which computes in "
        f"{str(after.dtype).removeprefix('torch.')}. What is left of their digits decides log p(x). Try "
        f"{' or '.join(remedies) or 'another unit'}."
    ]


def _outliers(column: Column) -> list[str]:
    quarter, three_quarters = (_quantile(column, share) for share in (0.25, 0.75))
    middle, spread = (three_quarters - quarter) / 1.349, _spread(column)
    if middle == 0 or spread <= _FAR * middle:
        return []
    return [
        f"column {column.name!r}: a few numbers from {column.values[0].item():.6g} to {column.values[-1].item():.6g} "
        f"set its standard deviation to {spread:.3g}, where the middle half suggests {middle:.3g}. Drop such rows, or "
        "take preprocessing.kind=robust."
    ]


def _spread(column: Column) -> float:
    """Standard deviation of the rows."""
    weights = column.counts / column.counts.sum()
    away = column.values - column.values[len(column.values) // 2]
    size = away.abs().max().clamp_min(1e-300)
    scaled = away / size
    mean = (weights * scaled).sum()
    return (size * (weights * (scaled - mean).square()).sum().sqrt()).item()


def _quantile(column: Column, share: float) -> float:
    place = torch.searchsorted(column.counts.cumsum(0), math.ceil(share * int(column.counts.sum())))
    return column.values[int(place)].item()


def _count(column: Column) -> str:
    shown = [f"{value:.6g}" for value in column.values[:3].tolist()]
    dots = ", …" if len(column.values) > len(shown) else ""
    return f"{len(column.values)} value{'s' if len(column.values) > 1 else ''}: {', '.join(shown)}{dots}"
