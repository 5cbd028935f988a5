"""What the README says works, works: its commands and its example are run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Enough to see every command work; the full run is measured in docs/generated/results.md.
SHORT = ["training.steps=3", "evaluation.limit=20", "evaluation.draws=1", "evaluation.samples=4"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


def test_commands(tmp_path):
    """Every `contraflow …` line of the README, in order, in an empty folder."""
    ours = [command for command in commands() if command[0] == "contraflow"]
    assert [command[1] for command in ours] == ["train", "evaluate", "sample", "certify", "report"]
    for command in ours:
        short = {"train": SHORT, "evaluate": ["--limit", "20"], "report": ["--rows", "20"]}.get(command[1], [])
        done = subprocess.run(
            [sys.executable, "-m", *command, *short], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "samples.png").stat().st_size > 100
    assert (tmp_path / "samples.png").stat().st_size > 100


def test_other_commands_are_the_two_of_a_clone_and_the_installation():
    others = [" ".join(command) for command in commands() if command[0] != "contraflow"]
    assert others == ["./demo", "./check", "pip install contraflow", "pip install contraflow[lab]"]


def test_what_and_why_come_first_then_the_two_commands_then_python_then_the_command_line():
    places = [
        README.index(text) for text in ("certified", "\n./demo\n./check\n", "```python", "\ncontraflow train digits")
    ]
    assert places == sorted(places)
    assert len(README.splitlines()) < 150


def test_example(capsys):
    """The Python example runs, and its estimate agrees with the exact log-density."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    exact, estimate = names["exact"], names["estimate"]
    noise = (estimate - exact).std().item() / len(exact) ** 0.5
    assert abs((estimate - exact).mean().item()) < 5 * noise + 1e-4
    assert exact.mean().item() > -2.2, "a Gaussian on the unit ring reaches about -2.2 nats"
    assert "torch.Size([1000, 2])" in capsys.readouterr().out


def test_architecture_table_is_current():
    """The table of docs/architectures.md is the one that the objects give."""
    from experiments.benchmarks.results import architecture_table

    assert architecture_table() in (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")


def test_pictures_exist():
    """Every picture that README and docs/generated/results.md show is in the repository."""
    for page in (ROOT / "README.md", ROOT / "docs" / "generated" / "results.md"):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
