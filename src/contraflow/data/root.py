"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

ROOT_VARIABLE = "CONTRAFLOW_DATA"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data sets: `root`, else ``$CONTRAFLOW_DATA``, else ``~/.cache/contraflow``.

    >>> data_root("somewhere").name
    'somewhere'
    """
    if root is not None:
        return Path(root).expanduser()
    if from_environment := os.environ.get(ROOT_VARIABLE):
        return Path(from_environment).expanduser()
    return Path.home() / ".cache" / "contraflow"
