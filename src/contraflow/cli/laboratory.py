"""What the command needs beside the library."""

from __future__ import annotations

import sys
from importlib.util import find_spec

#: The modules of the extra `lab`.
MODULES = ["jsonargparse", "yaml", "rich", "safetensors", "matplotlib", "PIL", "sklearn", "scipy", "torchdiffeq"]
if sys.version_info < (3, 11):
    MODULES.append("tomli")


def refusal() -> str | None:
    """One line that names what is missing and the words that install it; ``None`` where all is there."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if not missing:
        return None
    return f"the command needs the extra `lab` ({', '.join(missing)} missing): pip install 'contraflow[lab]'."
