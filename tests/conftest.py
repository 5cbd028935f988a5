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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of a published data set, marked `real_data(name)`, where its files are not."""
    for marker in item.iter_markers("real_data"):
        from contraflow.data import data_root, registry
        from contraflow.errors import DataError

        (name,) = marker.args
        try:
            registry._find(name, data_root())
        except DataError:
            pytest.skip(f"the files of {name} are not below {data_root()}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that want published data sets, and say what lets them run."""
    skipped = sum("real_data" in report.keywords for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(
            f"real_data: {skipped} tests of published data sets were skipped, since files are not on this machine. "
            "CONTRAFLOW_DATA names their folder; `contraflow data` lists them and `contraflow data fetch NAME` fetches."
        )


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
