"""What `pip install contraflow` brings: the package alone, with torch and numpy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="setuptools, which builds the wheel, is not here: the extra `dev` has it")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built in a copy of the tree, without a network."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("src", "tests", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    code = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    with zipfile.ZipFile(next(copy.glob("*.whl"))) as archive:
        yield archive


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {
        "contraflow",
        f"contraflow-{metadata(wheel)['Version']}.dist-info",
    }
    packaged = {name for name in names if name.endswith((".py", ".css", ".html", ".typed"))}
    source = ROOT / "src"
    assert packaged == {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.suffix in (".py", ".css", ".html") or path.name == "py.typed"
    }


def test_it_brings_torch_and_numpy_alone(wheel: zipfile.ZipFile) -> None:
    needed = [one for one in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in one]
    assert {re.match(r"[\w-]+", one)[0] for one in needed} == {"torch", "numpy"}  # type: ignore[index]


def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())
