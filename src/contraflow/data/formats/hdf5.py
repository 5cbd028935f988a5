"""Arrays from HDF5 files, with h5py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contraflow.errors import DataError

# what the compression of HDF5 can reach at most
_DEFLATE_LIMIT = 1032


def read_hdf5(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names at the top of an HDF5 file.

    Raises:
        DataError: h5py is not installed, the file is no HDF5 file, or an array is absent or lies in another file.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: reading HDF5 needs h5py: pip install 'contraflow[hdf5]'.") from error
    try:
        with h5py.File(path, "r") as file:
            if missing := [name for name in names if name not in file]:
                raise DataError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(sorted(file)) or 'nothing'}.")
            for name in names:
                array = file[name]
                own = isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(array, h5py.Dataset)
                if not own or array.is_virtual or array.external is not None:
                    raise DataError(f"{path}: {name} is not an array in this file.")
                if array.nbytes > _DEFLATE_LIMIT * array.id.get_storage_size():
                    raise DataError(f"{path}: {name} claims {array.nbytes} bytes, which the file does not hold.")
            return {name: file[name][...] for name in names}
    except DataError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and more for a damaged file
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected an HDF5 file ({type(error).__name__}: {reason}).") from error
