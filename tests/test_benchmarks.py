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


def test_step_fills_both_tables(tmp_path, monkeypatch):
    """A tiny dense flow and a tiny image flow, ours beside the peer's: every candidate has a line in each table."""
    pytest.importorskip("normflows")
    from benchmarks import step

    tiny = {
        "2d": step.Case("plane", (2,), 2, (8, 8), 16),
        "image-128": step.Case("image", (1, 8, 8), (1, 1), 4, 3),
    }
    monkeypatch.setattr(step, "CASES", tiny)
    page = tmp_path / "page.md"
    page.write_text("<!-- step -->\n<!-- /step -->\n<!-- split -->\n<!-- /split -->\n")
    with torch.random.fork_rng():
        step.main(["--rounds", "2", "--cases", *tiny, "--page", str(page)])
    text = page.read_text()
    for name in ("plane", "image"):
        lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert sum("contraflow, kept |" in line for line in lines) == 2
        assert sum("normflows" in line for line in lines) == (4 if name == "plane" else 3)
    assert "nan" not in text
    assert "float32 products" in text


def test_operations_and_flops_of_a_product():
    """Two flops a multiplication and addition; a transposed view is no operation."""
    pytest.importorskip("normflows")
    from benchmarks.step import _Counter

    a, b = torch.ones(3, 5), torch.ones(7, 5)
    with _Counter() as counter:
        (a @ b.t()).exp()
    assert (counter.count, counter.flops) == (2, 2 * 3 * 5 * 7)


def test_the_papers_sizes_are_cases():
    """48 blocks of hidden width 512, batches of 64."""
    pytest.importorskip("normflows")
    from benchmarks.cases import CASES

    for name, event in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        case = CASES[name]
        assert (case.event_shape, case.blocks, case.hidden, case.batch) == (event, (16, 16, 16), 512, 64)
