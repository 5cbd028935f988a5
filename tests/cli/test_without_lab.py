"""`pip install contraflow` alone: torch and numpy, and a command that says which words install the rest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contraflow.cli import main
from contraflow.cli.laboratory import MODULES, refusal

ROOT = Path(__file__).resolve().parents[2]
WORDS = "pip install 'contraflow[lab]'"


def test_the_command_says_what_installs_it() -> None:
    # A None in sys.modules makes an import fail.
    code = (
        f"import sys; sys.modules |= dict.fromkeys({MODULES}); sys.argv = ['contraflow', 'recipes']; "
        "from contraflow.cli import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.count("\n") == 1
    assert WORDS in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "digits"], ["score", "run", "rows.csv"]])
def test_one_missing_module_is_enough(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal() is None
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"contraflow: error: the command needs the extra `lab` (jsonargparse missing): {WORDS}.\n"


@pytest.mark.parametrize("page", ["README.md", "docs/tour.md"])
def test_the_first_examples_need_the_library_alone(page: str, tmp_path: Path) -> None:
    examples = re.findall(
        r"^```python[^\n]*\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    code = f"import sys; sys.modules |= dict.fromkeys({MODULES})\n" + "".join(examples)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([1000, 2])" in result.stdout, "the samples"
