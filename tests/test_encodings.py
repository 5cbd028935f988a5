"""Text is read and written in a stated encoding: the default is the locale's, which another machine does not share."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from contraflow.files import write_text

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "contraflow"

#: Whose `open` opens no text.
NO_TEXT = {"Image", "tarfile", "gzip", "archive", "os"}


def without_encoding(source: str) -> list[int]:
    """Lines that read or write text in whatever encoding the locale has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        called, mode = node.func, node.args[1:2]
        if isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            if owner in NO_TEXT:
                continue
            called, mode = ast.Name(called.attr), node.args[:1]
        name = called.id if isinstance(called, ast.Name) else ""
        ours = name == "write_text" and len(node.args) == 2
        binary = bool(mode) and isinstance(mode[0], ast.Constant) and "b" in str(mode[0].value)
        if (name in ("read_text", "write_text") and not ours) or (name == "open" and not binary):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("\npath.write_text(text)", [2]),
        ("open(path)", [1]),
        ('open(path, "w", newline="")', [1]),
        ("path.open()", [1]),
        ('open(path, "wb")', []),
        ('path.open("rb")', []),
        ('open(path, encoding="utf-8")', []),
        ('path.read_text(encoding="utf-8")', []),
        ("write_text(path, text)  # ours", []),
        ("Image.open(path)", []),
    ],
)
def test_the_search_finds_them(source: str, lines: list[int]) -> None:
    assert without_encoding(source) == lines


def test_every_text_has_a_stated_encoding() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line in without_encoding(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    """UTF-8, no line end translated, and the bytes of a path that is not UTF-8 kept."""
    write_text(tmp_path / "t.txt", "± 1\n\udcff.csv\r\n")
    assert (tmp_path / "t.txt").read_bytes() == b"\xc2\xb1 1\n\xff.csv\r\n"
