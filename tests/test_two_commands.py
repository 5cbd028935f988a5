"""`./demo` and `./check`: the environment that they make, the one that they leave alone, and what the demo shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Stands in for every python: notes its name, words and constraints; makes a .venv with a copy of itself as its python.
FAKE = """#!/usr/bin/env bash
environment=$(basename "$(dirname "$(dirname "$0")")")
echo "$environment PIP_CONSTRAINT=$(basename "${PIP_CONSTRAINT:-none}")${PYTHONPATH:+ $PYTHONPATH} $*" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ "$1 $2 $3" = "-m pip install" ] && [ -n "${PIP_FAILS:-}" ]; then exit 1; fi
if [ "$1" = -c ] && [ -n "${TOO_OLD:-}" ]; then exit 1; fi
exit 0
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of a clone the two commands read, and an activated environment whose every python is the fake one."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    for name in ("check", "demo", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone)
    active = tmp_path / "active" / "bin"
    active.mkdir(parents=True)
    for name in ("python", "python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        (active / name).write_text(FAKE)
        (active / name).chmod(0o755)
    return clone


def run(clone: Path, *command: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error, and what the pythons were asked since the last run."""
    log = clone.parent / "log"
    log.unlink(missing_ok=True)
    active = clone.parent / "active"
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    environment = inherited | {
        "PATH": f"{active / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(active),
        "LOG": str(log),
    }
    done = subprocess.run(
        [f"./{command[0]}", *command[1:]],
        cwd=clone,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []


def installed(asked: list[str]) -> list[str]:
    return [line for line in asked if "-m pip" in line]


def test_check_makes_an_environment_installs_with_constraints_and_runs_everything(clone):
    code, error, asked = run(clone, "check", "-k", "flow", PYTHONPATH="another/tree")
    assert code == 0, error
    made, *others = [line for line in asked if not re.search(r" -c | --version", line)]
    assert made.endswith("-m venv .venv")
    assert others == [
        f".venv PIP_CONSTRAINT=constraints.txt -m {words}"
        for words in (
            "pip install --quiet --editable .[dev]",
            "ruff format --check .",
            "ruff check .",
            "mypy",
            "pytest -n 2 --dist loadfile -k flow",
        )
    ]


def test_an_activated_environment_is_left_alone(clone):
    asked = run(clone, "check")[2] + run(clone, "demo")[2]
    assert installed(asked)
    others = [line for line in asked if not re.search(r" -c | -m venv | --version", line)]
    assert all(line.startswith(".venv ") for line in others)


def test_nothing_is_installed_twice_but_after_a_change_or_a_failure(clone):
    assert run(clone, "check", PIP_FAILS="1")[0] == 1
    assert len(installed(run(clone, "check")[2])) == 1
    assert installed(run(clone, "check")[2]) == []
    with (clone / "constraints.txt").open("a") as file:
        file.write("# another line\n")
    assert len(installed(run(clone, "check")[2])) == 1
    assert "[lab]" in installed(run(clone, "demo")[2])[0]


def test_an_environment_that_is_asked_for_is_used_as_it_is(clone):
    code, error, asked = run(clone, "check", CONTRAFLOW_PYTHON="python")
    assert code == 0, error
    assert installed(asked) == []
    assert not (clone / ".venv").exists()
    assert all(line.startswith("active ") for line in asked)


def test_a_python_that_is_too_old_or_too_new_is_refused(clone):
    code, error, _ = run(clone, "demo", TOO_OLD="1")
    assert (code, error) == (2, "demo: contraflow needs Python 3.10 to 3.13, and none is on the PATH.\n")
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("word", ["--out=x", "--out", "--resume", "--json"])
def test_the_demo_chooses_its_folder(clone, word):
    code, error, asked = run(clone, "demo", word, "x")
    assert code == 2
    assert f"contraflow train digits {word}" in error
    assert asked == []


def test_the_demo_ends_with_a_score_a_certificate_and_a_picture(clone):
    """Without a .venv: with the interpreter and the source of this test."""
    small = ["architecture.options.blocks=[1,1]", "training.steps=3", "evaluation.draws=1", "evaluation.samples=4"]
    environment = os.environ | {"CONTRAFLOW_PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["./demo", *small, "evaluation.limit=20"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "minutes" in said[1]
    assert "every block is proved invertible" in said[-3]
    assert re.match(r"test bits/dim \d\.\d+ ± 0\.\d+ \(20 images", said[-2])
    picture = said[-1].removeprefix("samples ")
    assert picture.startswith("runs/demo-")
    assert (clone / picture).stat().st_size > 100


def test_ci_clones_the_commit_and_runs_check_there():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    steps = ['git clone --quiet . "$clone/contraflow"', 'cd "$clone/contraflow"', './check "$@"']
    assert [line for line in ci if line in steps] == steps
