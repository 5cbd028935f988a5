"""Figure 3: memory as the routes' own arithmetic has it."""

from pathlib import Path

import pytest

import experiments.paper.memory as module
from experiments.paper import EXPERIMENTS, Plan
from experiments.paper.memory import Case


@pytest.fixture(scope="module")
def peaks():
    """Of one block and of two a level, at six terms."""
    options = {"hidden": 8, "dense_blocks": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TERMS", 6)
        return [
            Case("residual_flow_images", (1, 8, 8), options | {"blocks": (blocks, blocks)}).peaks() for blocks in (1, 2)
        ]


def test_the_routes_are_in_their_order(peaks):
    held = {route: one.activations for route, one in peaks[1].items()}
    assert held["series"] > 3 * held["neumann"] > 3 * held["backward_in_forward"] > 3 * held["dual"]
    assert all(one.total > one.activations for one in peaks[1].values())


def test_the_log_determinant_costs_nothing_more_a_block_under_ours(peaks):
    """Two blocks more: a few tensors of the data's size each, where the series adds all of its graph."""
    added = {route: peaks[1][route].activations - peaks[0][route].activations for route in peaks[0]}
    data = 5 * 64 * 4
    assert added["dual"] < 2 * 6 * data
    assert added["series"] > 10 * added["dual"]


def test_the_page_names_the_savings(peaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REDUCED", {"digits": Case("residual_flow_images", (1, 8, 8))})
    monkeypatch.setattr(Case, "peaks", lambda case: peaks[1])
    result = module.run(Plan("fig3", EXPERIMENTS["fig3"].reduced, out=tmp_path))
    naive, paper, ours = (peaks[1][route].activations for route in ("series", "backward_in_forward", "dual"))
    assert f"digits {naive / paper:.1f} times and {naive / ours:.1f} times" in result.findings[0]
    assert f"×{naive / ours:.1f}" in result.tables[0].rows[3][1]
    assert (tmp_path / "fig3.png").stat().st_size > 5000
