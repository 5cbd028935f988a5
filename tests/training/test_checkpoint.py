"""Checkpoints: whole or not at all, verified, never unpickled."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import contraflow.training.checkpoint as checkpoint_module
from contraflow import residual_flow
from contraflow.errors import CheckpointError, OutputError
from contraflow.training import (
    TrainingSettings,
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    train,
)

FILES = ("config.json", "model.safetensors", "training.safetensors", "training.json")
SETTINGS = TrainingSettings(steps=3, batch_size=8, warmup_steps=0)


def begin(seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    return TrainingState.begin(residual_flow((2,), blocks=2, hidden=(8,)), SETTINGS, seed)


def trained() -> TrainingState:
    state = begin()
    list(train(state, torch.randn(20, 2), SETTINGS))
    state.best = {name: one + 1 for name, one in state.average.weights.items()}
    state.best_score = -1.5
    return state


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "run", trained(), {"note": "α"})


def test_round_trip_of_everything(saved: Path) -> None:
    state, other = trained(), begin(seed=1)
    checkpoint = load_checkpoint(saved.parent.parent)
    assert checkpoint.path == saved
    assert checkpoint.config == {"format": "contraflow", "schema": 1, "note": "α"}
    checkpoint.restore(other)
    for name, value in state.flow.state_dict().items():
        assert torch.equal(other.flow.state_dict()[name], value), name
    for ours, theirs in ((state.average.weights, other.average.weights), (state.best, other.best)):
        assert ours is not None
        assert theirs is not None
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    fields = ("step", "epoch", "position", "best_score")
    assert [getattr(state, one) for one in fields] == [getattr(other, one) for one in fields]
    assert torch.equal(state.order, other.order)
    assert torch.equal(state.generator.get_state(), other.generator.get_state())
    before, after = state.optimiser.state_dict()["state"], other.optimiser.state_dict()["state"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[one][what], after[one][what]) for one in before for what in before[one])


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    state = begin()
    save_checkpoint(tmp_path, state, {})
    checkpoint = load_checkpoint(tmp_path)
    other = trained()
    checkpoint.restore(other)
    assert other.best is None
    assert other.best_score == -float("inf")
    assert checkpoint.evaluation_weights().keys() == state.average.weights.keys()


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    state = begin()
    for step in (0, 9, 10, 100_000_000):
        state.step = step
        save_checkpoint(tmp_path, state, {})
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{step:08d}"]
    assert load_checkpoint(tmp_path).progress["step"] == 100_000_000


@pytest.mark.parametrize("when", [1, 3, 5])
def test_a_full_disk_leaves_the_old_one(saved: Path, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, sync = [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    state = trained()
    for step in (state.step, state.step + 1):
        state.step, calls[0] = step, 0
        with pytest.raises(OutputError, match=r"No space left on device.*Earlier checkpoints are intact"):
            save_checkpoint(saved.parent.parent, state, {})
        assert [path.name for path in saved.parent.iterdir()] == ["00000003"]
        assert load_checkpoint(saved.parent.parent).progress["step"] == 3


@pytest.mark.parametrize("left", [0, 4096, 12_288, 20_480])
def test_a_disk_that_is_really_full(small_disk: Path, left: int) -> None:
    state = trained()
    saved = save_checkpoint(small_disk / "run", state, {"note": "old"})
    before = {path: path.read_bytes() for path in saved.iterdir()}
    with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - left)
    for step in (3, 4):
        state.step = step
        with pytest.raises(OutputError, match=r"cannot be written: No space left.*are intact; free some space"):
            save_checkpoint(small_disk / "run", state, {})
        assert [path.name for path in saved.parent.iterdir()] == ["00000003"]
        assert {path: path.read_bytes() for path in saved.iterdir()} == before
    (small_disk / "filler").unlink()
    assert load_checkpoint(small_disk / "run").config["note"] == "old"
    save_checkpoint(small_disk / "run", state, {})
    assert load_checkpoint(small_disk / "run").progress["step"] == 4


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("what", ["rename", "mkdir", "rmtree"])
@pytest.mark.parametrize("when", [1, 2])
def test_a_kill_at_any_moment_leaves_a_whole_one(
    saved: Path, what: str, when: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step that is saved twice (Ctrl-C right after --resume) replaces the only checkpoint there is.
    owner, calls = (checkpoint_module.shutil if what == "rmtree" else Path), [0]
    real = getattr(owner, what)

    def killed(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == when:
            raise Killed
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, what, killed)
    state = trained()
    state.step = step
    with contextlib.suppress(Killed):
        save_checkpoint(saved.parent.parent, state, {})
    monkeypatch.undo()
    assert load_checkpoint(saved.parent.parent).progress["step"] in (3, step)
    state.step = 5
    save_checkpoint(saved.parent.parent, state, {})
    assert [path.name for path in saved.parent.iterdir()] == ["00000005"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_damage_is_noticed(saved: Path, name: str, damage: str) -> None:
    file = saved / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "flipped" and name == "manifest.json":
        content[content.index(b'"sha256"') + 20] ^= 1
        file.write_bytes(content)
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read") as error:
        load_checkpoint(saved.parent.parent)
    assert str(saved) in str(error.value)


def rewrite(saved: Path, name: str, content: bytes) -> None:
    """Change a file and the manifest with it."""
    (saved / name).write_bytes(content)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (saved / "manifest.json").write_text(json.dumps(manifest))


def test_damaged_json_and_tensors_under_a_right_checksum(saved: Path) -> None:
    rewrite(saved, "model.safetensors", b"\x10" + b"\x00" * 7 + b"not a header, sir")
    with pytest.raises(CheckpointError, match="damaged tensors"):
        load_checkpoint(saved)
    rewrite(saved, "training.json", b"{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(saved)
    rewrite(saved, "training.json", b"[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_checkpoint(saved)
    rewrite(saved, "config.json", b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_newer_schema_and_strangers(saved: Path, name: str) -> None:
    header = json.loads((saved / name).read_text())
    for change, match in (
        ({"schema": 2}, r"schema 2; this version reads schema 1.*newer contraflow"),
        ({"format": "other"}, "not a contraflow checkpoint"),
        ({"format": None}, "not a contraflow checkpoint"),
    ):
        content = json.dumps({**header, **change}).encode()
        if name == "manifest.json":
            (saved / name).write_bytes(content)
        else:
            rewrite(saved, name, content)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(saved)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"manifest\.json: cannot be read"):
        load_checkpoint(tmp_path)


def test_weights_of_another_flow_are_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(saved).load_weights(residual_flow((2,), blocks=3, hidden=(8,)))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("pickle on the path of a checkpoint")

    for owner, name in ((torch, "load"), (torch, "save"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, refuse)
    state = trained()
    save_checkpoint(tmp_path, state, {})
    load_checkpoint(tmp_path).restore(begin(seed=1))
