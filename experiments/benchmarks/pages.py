"""Pages whose sections are written by commands, between two HTML comments."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ARCHITECTURES_PAGE = ROOT / "docs" / "architectures.md"
GENERATED = ROOT / "docs" / "generated"
BENCHMARKS = GENERATED / "benchmarks.md"
RESULTS = GENERATED / "results.md"
PICTURES = ROOT / "docs" / "pictures"


def on(device: str, name: str) -> str:
    """The marker of a section measured on a device; GPU sections begin with `cuda`."""
    return name if device == "cpu" else f"{device} {name}"


def fill(page: Path, marker: str, text: str) -> None:
    """Replace the text between ``<!-- marker -->`` and ``<!-- /marker -->``.

    Raises:
        ValueError: the page does not contain each of the two comments exactly once, in this order.
    """
    before, _, after = _around(page, marker)
    page.write_text(f"{before}<!-- {marker} -->\n{text}\n<!-- /{marker} -->{after}")


def section(page: Path, marker: str) -> str:
    """The text between ``<!-- marker -->`` and ``<!-- /marker -->``.

    Raises:
        ValueError: as `fill`.
    """
    return _around(page, marker)[1].strip("\n")


def _around(page: Path, marker: str) -> tuple[str, str, str]:
    """The text before, between and after the comments."""
    content = page.read_text()
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = content.partition(begin)
    between, closed, after = rest.partition(end)
    if not found or not closed or content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page.name} needs {begin} and, after it, {end}, exactly once each.")
    return before, between, after
