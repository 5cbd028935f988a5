"""Fifty SIGKILLs at random moments of `contraflow train`, and a disk that fills: nothing is lost that was saved."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY, logged

from contraflow.cli import main
from contraflow.training import load_checkpoint

STEPS, EVERY, KILLS = 60, 4, 50
SETTINGS = [*TINY, f"training.steps={STEPS}", f"training.checkpoint_every={EVERY}"]


def command(run: Path) -> list[str]:
    """Begin, or go on where there is a checkpoint, or begin again where a kill came before the first."""
    started = [sys.executable, "-m", "contraflow", "train"]
    if any((run / "checkpoints").glob("[0-9]*/manifest.json")):
        return [*started, "--resume", str(run)]
    return [*started, "digits", "--out", str(run), "--force", *SETTINGS]


def until(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Watch closely: what is waited for may last a millisecond."""
    end = time.monotonic() + seconds
    while process.poll() is None and not ready() and time.monotonic() < end:
        time.sleep(0.0002)


def size(run: Path) -> int:
    log = run / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


def aim(moment: str, run: Path, process: subprocess.Popen[str], dice: random.Random) -> None:
    """Wait for a moment of some kind, and a random while longer."""
    if moment == "start":
        time.sleep(dice.uniform(0, 6))
    elif moment == "step":
        grown = size(run) + 200 * dice.randint(1, 12)
        until(lambda: size(run) >= grown or (run / "evaluation.json").exists(), process)
        time.sleep(dice.uniform(0, 0.03))
    elif moment == "write":
        for _ in range(dice.randint(1, 3)):
            until(lambda: not any((run / "checkpoints").glob(".*.tmp")), process)
            until(lambda: any((run / "checkpoints").glob(".*.tmp")), process)
        time.sleep(dice.choice([0, dice.uniform(0, 0.05)]))
    else:
        until(lambda: (run / "checkpoints" / f"{STEPS:08d}").exists(), process)
        time.sleep(dice.uniform(0, 0.5))


def assert_nothing_is_lost(run: Path, whole: Path) -> int:
    """The newest checkpoint is whole, and at most `EVERY` steps behind the log; the log is that of the whole run."""
    steps = [line["step"] for line in whole_lines(run)]
    if not any((run / "checkpoints").glob("[0-9]*")):
        assert not steps
        return 0
    saved = load_checkpoint(run).progress["step"]
    assert steps == list(range(1, len(steps) + 1))
    # A step is logged, then saved: a kill in between takes it, and the steps since the last checkpoint, away.
    assert saved >= EVERY * ((len(steps) - 1) // EVERY)
    assert whole_lines(run) == whole_lines(whole)[: len(steps)]
    return saved


def whole_lines(run: Path) -> list[dict[str, float]]:
    """The log, less a line that a kill cut short."""
    log = run / "log.jsonl"
    if not log.exists():
        return []
    text = log.read_text()
    if not text.endswith("\n"):
        log.write_text(text[: text.rfind("\n") + 1])
    return logged(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert main(["train", "digits", "--out", str(whole), *SETTINGS]) == 0
    dice, count, landed, finished = random.Random(2026), 0, Counter[str](), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while count < KILLS:
        run = tmp_path / f"run-{finished}"
        done = False
        while not done:
            moment = dice.choice(["start", "step", "step", "write", "write", "write", "end"]) if count < KILLS else ""
            process = subprocess.Popen(
                command(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
            )
            if moment:
                aim(moment, run, process, dice)
                writing = any((run / "checkpoints").glob(".*.tmp"))
                process.kill()
            _, error = process.communicate()
            done = process.returncode == 0
            if not done:
                assert process.returncode == -9, error
                count += 1
                saved = assert_nothing_is_lost(run, whole)
                landed[f"{moment}{', a temporary folder there' if writing else ''}"] += 1
                print(f"kill {count}: {moment}, step {saved}{', while writing' if writing else ''}", flush=True)
        finished += 1
        assert logged(run) == logged(whole)
        for name in ("evaluation.json", "samples.png"):
            assert (run / name).read_bytes() == (whole / name).read_bytes()
        for file in ("model.safetensors", "training.safetensors", "training.json"):
            ours, theirs = (one / "checkpoints" / f"{STEPS:08d}" / file for one in (run, whole))
            assert ours.read_bytes() == theirs.read_bytes(), file
    print(f"{count} kills, {finished} runs finished; {dict(landed)}")
    assert landed["write, a temporary folder there"] >= 5
