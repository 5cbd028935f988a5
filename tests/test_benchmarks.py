"""What the benchmarks measure and write with; the flows they compare with need not be installed."""

import pytest
import torch
from benchmarks.pages import fill
from benchmarks.peak import allocations, held, peak


def test_fill_replaces_one_section(tmp_path):
    """Only what stands between the two comments changes, and a second run writes the same page."""
    page = tmp_path / "page.md"
    page.write_text("head\n<!-- a -->\nold\n<!-- /a -->\nmiddle\n<!-- b -->\nkept\n<!-- /b -->\ntail\n")
    for _ in range(2):
        fill(page, "a", "new")
        assert page.read_text() == ("head\n<!-- a -->\nnew\n<!-- /a -->\nmiddle\n<!-- b -->\nkept\n<!-- /b -->\ntail\n")


@pytest.mark.parametrize("content", ["", "<!-- a -->", "<!-- /a --><!-- a -->", "<!-- a --><!-- /a -->" * 2])
def test_fill_names_missing_and_doubled_comments(tmp_path, content):
    """Nothing is written to a page without a place for the text."""
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match=r"page\.md needs <!-- a -->"):
        fill(page, "a", "new")
    assert page.read_text() == content


def test_peak_counts_what_lives_at_once():
    """What was released no longer counts; what was there before does not; temporaries inside an operation do."""
    before = [torch.zeros(50_000)]

    def call():
        before.clear()
        a = torch.zeros(1000)
        del a
        b = torch.zeros(2000)
        return b.exp().sum()

    changes = allocations(call)
    assert peak(changes) == 4 * (2000 + 2000 + 1)
    assert sum(changes) == 0
    assert peak([]) == 0


def test_held_counts_parameters_buffers_and_state():
    """Weights twice over in Adam's state, besides the step counts."""
    module = torch.nn.BatchNorm1d(100, dtype=torch.float32)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 100)).sum().backward()
    optimiser.step()
    buffers = 4 * 200 + 8
    assert held(module, optimiser) == 3 * 4 * 200 + buffers + 2 * 4
