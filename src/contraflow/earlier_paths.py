"""Module paths of before the three tiers, for scripts that still import by them; they go when issue 17 closes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Path → where its names are now.
PATHS = {
    "contraflow.data.arrays": "contraflow.data.formats.arrays",
    "contraflow.data.csv_table": "contraflow.data.formats.csv_table",
    "contraflow.data.dequantisation": "contraflow.preprocessing.dequantisation",
    "contraflow.data.image_folder": "contraflow.data.formats.image_folder",
    "contraflow.data.image_preprocessing": "contraflow.preprocessing.images",
    "contraflow.data.splits": "contraflow.data.path_dataset",
    "contraflow.data.table_preprocessing": "contraflow.preprocessing.tables",
    "contraflow.data.tables": "contraflow.data.formats.tables",
    "contraflow.recipes": "contraflow.runs",
}


class EarlierPaths(MetaPathFinder, Loader):
    """Finds modules by their earlier paths; such a module has the names of the one that took its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in PATHS else None

    def exec_module(self, module: ModuleType) -> None:
        successor = importlib.import_module(PATHS[module.__name__])
        vars(module).update({name: one for name, one in vars(successor).items() if not name.startswith("__")})


sys.meta_path.append(EarlierPaths())
