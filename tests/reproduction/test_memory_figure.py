"""Figure 3: memory as the routes' own arithmetic has it."""

from pathlib import Path

import pytest

import contraflow.reproduction.memory as module
from contraflow.reproduction import EXPERIMENTS, Plan
from contraflow.reproduction.memory import Case

TINY = {"blocks": (2, 2), "hidden": 16, "dense_blocks": 0}


@pytest.fixture(scope="module")
def peaks():
    return {
        blocks: Case("residual_flow_images", (1, 8, 8), TINY | {"blocks": (blocks, blocks)}).peaks()
        for blocks in (1, 2)
    }


def test_the_routes_are_in_their_order(peaks):
    held = {route: one.activations for route, one in peaks[2].items()}
    assert held["series"] > 3 * held["neumann"] > 3 * held["backward_in_forward"] > 3 * held["dual"]
    assert all(one.total > one.activations for one in peaks[2].values())


def test_the_log_determinant_costs_nothing_more_a_block_under_ours(peaks):
    """The dual pass adds three tensors of the data's size a block, 3840 bytes, beside what lies between the blocks."""
    added = {route: peaks[2][route].activations - peaks[1][route].activations for route in peaks[1]}
    assert added["dual"] < 10 * 2 * 5 * 64 * 4
    assert added["series"] > 20 * added["dual"]


def test_the_page_names_the_savings(peaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REDUCED", {"digits": Case("residual_flow_images", (1, 8, 8), TINY)})
    result = module.run(Plan("fig3", EXPERIMENTS["fig3"].reduced, out=tmp_path))
    naive, ours = (result.values["digits"][route]["activations"] for route in ("series", "dual"))
    assert f"by {naive / ours:.1f} with our dual pass" in result.findings[0]
    assert f"×{naive / ours:.1f}" in result.tables[0].rows[3][1]
    assert (tmp_path / "fig3.png").stat().st_size > 5000
