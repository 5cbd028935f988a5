"""What every test shares: one thread, since the cores have other guests, a fixed seed, the harsh climate,
and a disk that is soon full.

The only conftest: pytest's doctest collection takes two modules of one name for the same.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

#: Folders whose tests run in float64 by default: a routine that quietly computes in float32 shows.
FLOAT64 = {
    "architectures", "bijections", "distributions", "flow", "lipschitz", "logdet", "numerics", "reference", "testing",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _climate(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.manual_seed(0)
    if request.path.parent.name in FLOAT64:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command here, so no small disk to fill")
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)
