"""The packages that the command line needs besides those of the library."""

from __future__ import annotations

import sys
from importlib.util import find_spec

#: The modules that the extra `lab` installs.
MODULES = ["jsonargparse", "yaml", "rich", "safetensors", "matplotlib", "PIL", "sklearn", "scipy", "torchdiffeq"]
if sys.version_info < (3, 11):
    MODULES.append("tomli")


def refusal() -> str | None:
    """One line that names the missing packages and how to install them; ``None`` where none is missing."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if not missing:
        return None
    return f"the command needs the extra `lab` ({', '.join(missing)} missing): pip install 'contraflow[lab]'."
