"""What every test shares: one thread, since the cores have other guests, a fixed seed, and the harsh climate.

The only conftest: pytest's doctest collection takes two modules of one name for the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)

#: Folders whose tests run in float64 by default: a routine that quietly computes in float32 shows.
FLOAT64 = {"core", "reference"}


@pytest.fixture(autouse=True)
def _climate(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.manual_seed(0)
    if request.path.parent.name in FLOAT64:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
