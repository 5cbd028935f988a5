"""Files of the published data sets: a name, folders, an md5 sum and official addresses.

The sums of MNIST, Fashion-MNIST and of CIFAR-10's binary batches were compared with the files themselves; those of
SVHN and of CIFAR-10's Python release are the ones that their publishers and torchvision list.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class KnownFile:
    """One file of a published data set.

    Attributes:
        name: file name as published.
        folders: folders below the data root where it is looked for; a download goes to the first.
        md5: published md5 sum in hexadecimal, or ``None`` where none is published.
        addresses: official addresses, tried in this order.
        also: other names that are accepted for the same content (unpacked, so without a published sum).
        unpacked: whether a folder with one of these names is accepted too, as the unpacked content.
    """

    name: str
    folders: tuple[str, ...]
    md5: str | None = None
    addresses: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unpacked: bool = False

    def places(self, root: Path) -> tuple[Path, ...]:
        """Every path where the file is looked for, in order."""
        return tuple(root / folder / name for name in (self.name, *self.also) for folder in self.folders)

    def find(self, root: Path) -> Path | None:
        """The first place that holds the file, or ``None``."""
        paths = (path for path in self.places(root) if path.is_file() or (self.unpacked and path.is_dir()))
        return next(paths, None)


Form = tuple[KnownFile, ...]
"""Files that together are one complete copy of a data set; a data set may come in several forms."""


def file_md5(path: Path) -> str:
    """md5 of a file in hexadecimal; a check against accidents, not against attackers."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
