"""The threads of our command wait without spinning, those of other programs as these want: OpenMP itself is asked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = ["-m", "contraflow", "--version"]
SCRIPT = ["-c", "import sys; sys.argv = ['/usr/bin/contraflow']; import contraflow"]
LIBRARY = ["-c", "import contraflow"]


def spin_count(arguments: list[str], **variables: str) -> int:
    """How often a thread looks before it sleeps, as OpenMP prints it when it is loaded."""
    kept = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment = {**kept, "OMP_NUM_THREADS": "2", "OMP_DISPLAY_ENV": "verbose", **variables}
    process = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line for line in process.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not lines:
        pytest.skip("torch's OpenMP is not GNU's, which prints the count")
    return int(lines[0].split("'")[1])


@pytest.mark.parametrize("arguments", [COMMAND, SCRIPT])
def test_the_command_does_not_spin(arguments: list[str]) -> None:
    assert spin_count(arguments) == 0


def test_the_users_own_policy_stands() -> None:
    assert spin_count(COMMAND, OMP_WAIT_POLICY="ACTIVE") > 0


def test_other_programs_are_left_alone() -> None:
    assert spin_count(LIBRARY) > 0
