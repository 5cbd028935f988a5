"""What a run records about its data, so that a changed file is not mistaken for the one that it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from contraflow.data.dataset import Dataset

_SPLITS = ("train", "validation", "test")
#: Bytes of a split that are read for its checksum; of a larger split, evenly spaced rows are read.
_ENOUGH = 2**27
#: Rows hashed at once, in bytes: what a processor's cache holds.
_AT_ONCE = 2**20
#: Training rows whose hashes are recorded.
_REMEMBERED = 256
#: An odd number with well mixed bits, of splitmix64 (G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number
#: generators, 2014), and where every row starts.
_FACTOR, _START = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fingerprint:
    """Shape, columns, rows and checksums of a data set, split by split.

    Attributes:
        event_shape: of one row.
        dtype: of the rows, for instance ``float32``.
        columns: names of the columns of a table, or ``None``.
        rows: split → how many rows.
        checksums: split → SHA-256 over the hashes of its rows in their order, and its labels; empty for data that are
            drawn by a formula and not read, since their last digits are the machine's.
        remembered: hashes of some training rows, evenly spaced.
    """

    event_shape: tuple[int, ...]
    dtype: str
    columns: tuple[str, ...] | None
    rows: dict[str, int]
    checksums: dict[str, str]
    remembered: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset) -> Fingerprint:
        """The fingerprint of a data set; of a split beyond 128 MB, of evenly spaced rows of that size."""
        drawn = data.density is not None
        splits = {} if drawn else {split: getattr(data, split) for split in _SPLITS}
        hashes = {split: row_hashes(rows[:: _stride(rows)]) for split, rows in splits.items()}
        checksums = {}
        for split, values in hashes.items():
            labels = getattr(data, f"{split}_labels")
            summed = hashlib.sha256(values.tobytes())
            summed.update(b"" if labels is None else labels.numpy().tobytes())
            checksums[split] = summed.hexdigest()
        train = hashes.get("train", np.empty(0, np.uint64))
        remembered = train[:: max(1, -(-len(train) // _REMEMBERED))]
        return cls(
            data.event_shape,
            str(data.test.dtype).removeprefix("torch."),
            data.columns,
            {split: len(getattr(data, split)) for split in _SPLITS},
            checksums,
            tuple(f"{value:016x}" for value in remembered.tolist()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "event_shape": list(self.event_shape),
            "dtype": self.dtype,
            "columns": None if self.columns is None else list(self.columns),
            "rows": self.rows,
            "checksums": self.checksums,
            "remembered": list(self.remembered),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint that `as_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the values are not a fingerprint.
        """
        columns = values["columns"]
        return cls(
            tuple(int(size) for size in values["event_shape"]),
            str(values["dtype"]),
            None if columns is None else tuple(str(name) for name in columns),
            {split: int(values["rows"][split]) for split in _SPLITS},
            {str(split): str(checksum) for split, checksum in dict(values["checksums"]).items()},
            tuple(str(row) for row in values["remembered"]),
        )

    def change(self, now: Fingerprint) -> str:
        """What has changed, in a few words; empty where nothing has."""
        if self.columns != now.columns:
            return _change_of_columns(self.columns or (), now.columns or ())
        if (self.event_shape, self.dtype) != (now.event_shape, now.dtype):
            return f"rows of {now.dtype} {now.event_shape}, not of {self.dtype} {self.event_shape}"
        if (before := sum(self.rows.values())) != (after := sum(now.rows.values())):
            return f"{after:,} rows, not {before:,}"
        if self.rows != now.rows:
            return f"{_counts(now.rows)} rows, not {_counts(self.rows)}"
        if not self.checksums or not now.checksums or self.checksums == now.checksums:
            return ""
        changed = [split for split in _SPLITS if self.checksums.get(split) != now.checksums.get(split)]
        return f"as many rows, but other values or another order in {', '.join(changed)}"

    def share_among(self, rows: Tensor) -> float:
        """The share of the training rows that occur, bit for bit, among other rows ``(n, *event_shape)``.

        It is estimated from up to 256 training rows; 0 where shape or dtype differ, or where no rows are recorded.
        """
        alike = (tuple(rows.shape[1:]), str(rows.dtype)) == (self.event_shape, f"torch.{self.dtype}")
        if not alike or not self.remembered:
            return 0.0
        wanted = np.unique(np.array([int(row, 16) for row in self.remembered], np.uint64))
        hashes = row_hashes(rows)
        nearest = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)  # np.isin would sort all rows
        return len(np.unique(nearest[wanted[nearest] == hashes])) / len(wanted)


def row_hashes(rows: Tensor) -> np.ndarray:
    """A 64-bit hash of each row ``(n, …)``, uint64 ``(n,)``: equal for equal rows, else almost surely different."""
    values = rows.flatten(1).numpy()
    width = values.shape[1] * values.itemsize
    hashes = np.empty(len(values), np.uint64)
    step = max(1, _AT_ONCE // width)
    for start in range(0, len(values), step):
        part = np.ascontiguousarray(values[start : start + step]).view(np.uint8).reshape(-1, width)
        words = np.pad(part, ((0, 0), (0, -width % 8))).view(np.uint64)
        mixed = np.full(len(part), _START)
        for word in words.T:
            # the shift brings high bits down: without it, two flipped signs in a row would cancel each other
            mixed = (mixed ^ word) * _FACTOR
            mixed ^= mixed >> np.uint64(29)
        hashes[start : start + step] = mixed
    return hashes


def _stride(rows: Tensor) -> int:
    return max(1, -(-rows.numel() * rows.element_size() // _ENOUGH))


def _counts(rows: Mapping[str, int]) -> str:
    return " + ".join(f"{rows[split]:,}" for split in _SPLITS)


def _change_of_columns(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    missing = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    parts = [f"without {_named(missing)}"] if missing else []
    parts += [f"with the new {_named(new)}"] if new else []
    return " and ".join(parts) or f"its columns in another order: {', '.join(after)}"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 4} others" if len(names) > 4 else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:4]))}{more}"
