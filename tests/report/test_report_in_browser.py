"""A report in headless Chromium: nothing on the console, in light and in dark."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from contraflow.evaluation.figures import png_image, svg_figure
from contraflow.report.page import Section, figure, gallery, paragraph, render, table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here to open the page in; Debian's package chromium brings one"
)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
]


def console(page: str, folder: Path, *flags: str) -> tuple[list[str], str]:
    """The lines on the browser's console, and the page as it then is."""
    file = folder / "page.html"
    file.write_text(page)
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'browser'}", *flags, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout


@pytest.fixture(scope="module")
def page() -> str:
    """Every kind of block that pages are made of."""
    with svg_figure("line", "a line") as picture:
        picture.figure.subplots().plot([0, 1], [1, 3])
    image = png_image(np.zeros((4, 4), np.uint8), "black", 40)
    blocks = [
        paragraph("a `b` <c>"),
        figure(picture.svg, "Line.", "It rises."),
        figure(gallery([("one", image)]), "Images.", "Black."),
        table(("a", "b"), [("1", "2")], "Table.", "Two numbers."),
    ]
    return render("a title", "about", [("label", "1.5", "remark")], [Section("First", blocks), Section("Second", [])])


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_on_the_console(dark: bool, page: str, tmp_path: Path) -> None:
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    said, shown = console(page, tmp_path, *flags)
    assert said == []
    assert '<section id="second">' in shown


def test_a_request_would_be_on_the_console(page: str, tmp_path: Path) -> None:
    """The page forbids itself every request, so that one which slipped in would be refused, and seen here."""
    planted = page.replace("</main>", '<img src="http://127.0.0.1:9/a.png"></main>')
    said, _ = console(planted, tmp_path)
    assert any("Content Security Policy" in line for line in said)
