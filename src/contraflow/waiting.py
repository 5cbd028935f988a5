"""How the threads of our own command wait for each other. OpenMP reads it when torch is loaded, so this comes first."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def runs_our_command() -> bool:
    """Whether this process is `contraflow …` or `python -m contraflow …`, not another program with the library."""
    program = sys.argv[0] if sys.argv else ""
    return program == "-m" or Path(program).stem == "contraflow"  # "-m" while Python looks for the module to run


if runs_our_command():
    # On busy cores a thread that spins at a barrier takes the core of the thread that it waits for: `certify` then
    # takes a minute instead of seconds. Other programs keep their own policy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
