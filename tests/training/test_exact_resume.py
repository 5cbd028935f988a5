"""A run that was killed and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import STEPS, TINY, logged
from torch import Tensor

from contraflow.cli import main
from contraflow.training import TrainingState


def start(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "contraflow", "train", "digits", "--out", str(run), *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 280
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.0005)


def lines(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", "digits", "--out", str(run), *TINY]) == 0
    return run


def assert_same(run: Path, whole: Path) -> None:
    assert logged(run) == logged(whole)
    assert [line["step"] for line in logged(run)] == list(range(1, STEPS + 1))
    for name in ("evaluation.json", "samples.png"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    for name in ("model.safetensors", "training.safetensors", "training.json"):
        ours, theirs = (one / "checkpoints" / f"{STEPS:08d}" / name for one in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"{STEPS:08d}"]


def has_checkpoint(run: Path) -> bool:
    return any((run / "checkpoints").glob("[0-9]*/manifest.json"))


KILLS: dict[str, Callable[[Path], bool]] = {
    "soon after the start": has_checkpoint,
    "in a step": lambda run: lines(run) >= random.Random(1).randint(3, 20),
    "while a checkpoint is written": lambda run: lines(run) >= 9 and any((run / "checkpoints").glob(".*.tmp")),
}


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Ctrl-C inside a step: after its batch was drawn, before the weights change."""
    draw = TrainingState.next_batch

    def interrupted(state: TrainingState, data: Tensor, size: int) -> Tensor:
        batch = draw(state, data, size)
        if state.step == step - 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return batch

    monkeypatch.setattr(TrainingState, "next_batch", interrupted)


@pytest.mark.parametrize("moment", KILLS)
def test_sigkill_then_resume(moment: str, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    process = start(run)
    wait_for(process, lambda: KILLS[moment](run))
    time.sleep(random.Random(moment).uniform(0, 0.02) if "step" in moment else 0)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "evaluation.json").exists()
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    process = start(run)
    wait_for(process, lambda: lines(run) >= 7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"contraflow train --resume {run}" in " ".join(err.split())
    step = int(err.split("stopped at step ")[1].split(";")[0])
    assert step >= 7
    assert has_checkpoint(run)
    assert (run / "checkpoints" / f"{step:08d}").is_dir()
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole)


def test_ctrl_c_inside_a_step_loses_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The random-number state has moved on by then: the step has to end before anything is saved.
    run = tmp_path / "run"
    interrupt_at(8, monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    assert main(["train", "digits", "--out", str(run), *TINY]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped at step 8; continue with: contraflow train --resume" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole)


def test_a_second_ctrl_c_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    interrupt_at(1, monkeypatch, times=2)
    assert main(["train", "digits", "--out", str(run), *TINY]) == 130
    assert "stopped at step 0; continue with" in " ".join(capsys.readouterr().err.split())
    assert has_checkpoint(run)


def test_a_log_line_cut_short_is_dropped(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    interrupt_at(5, monkeypatch)
    assert main(["train", "digits", "--out", str(run), *TINY]) == 130
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole)


def test_resume_after_completion_changes_nothing(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert main(["train", "--resume", str(whole)]) == 0
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_resume_with_more_steps_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "digits", "--out", str(run), *TINY, "training.steps=4"]) == 0
    assert main(["train", "--resume", str(run), "training.steps=6", "training.learning_rate=0.5"]) == 0
    assert "resumed" in capsys.readouterr().err
    assert [line["step"] for line in logged(run)] == [1, 2, 3, 4, 5, 6]
    assert logged(run)[3]["learning_rate"] < 0.1 < logged(run)[4]["learning_rate"]
