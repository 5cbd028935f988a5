"""BSDS300: patches of 8 × 8 grey pixels of natural images, of the Berkeley segmentation data set.

As prepared by Papamakarios et al. (`contraflow.data.sets.published_tables`) after B. Uria, I. Murray, H. Larochelle,
"RNADE", 2013 (arXiv:1306.0186): with uniform noise, less the patch's mean, and without the last pixel, which the others
determine. The values are taken as they are, not standardised. D. Martin, C. Fowlkes, D. Tal, J. Malik, "A database of
human segmented natural images", 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.formats.hdf5 import read_hdf5
from contraflow.data.known_files import Form, KnownFile
from contraflow.data.sets.published_tables import ARCHIVE, require_width, single

_PIXELS = 63
_SPLITS = ("train", "validation", "test")


def load_bsds300(path: Path) -> Dataset:
    """The published splits, float32.

    Args:
        path: the archive's ``BSDS300.hdf5``.

    Raises:
        DataError: the file is not what is expected, or h5py is not installed.
    """
    arrays = read_hdf5(path, _SPLITS)
    train, validation, test = (single(require_width(arrays[split], _PIXELS, f"{path}:{split}")) for split in _SPLITS)
    return Dataset("bsds300", train, validation, test)


FILES: Form = (KnownFile("BSDS300.hdf5", ("BSDS300", f"{ARCHIVE}/BSDS300", ".")),)
"""As the archive of Papamakarios et al. has it."""


def _load(paths: Sequence[Path], seed: int) -> Dataset:
    """BSDS300: 63 columns; 1,000,000 train, 50,000 validation, 250,000 test."""
    return load_bsds300(paths[0])


ENTRY = Entry(
    _load,
    "patches of images (BSDS300), 63 columns; needs h5py",
    "table",
    (FILES,),
    shape=(1_000_000, 50_000, 250_000, 63),
)
