"""Flipped bytes, truncation, damaged JSON and tensors: a clear error or exactly the right flow, on the user's path."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from contraflow.cli import main
from contraflow.errors import CheckpointError
from contraflow.runs import Recipe, build_flow, load_run
from contraflow.training import TrainingState, load_checkpoint
from mutations import EDITS, mutated

TENSORS = ("model.safetensors", "training.safetensors")
TEXTS = ("config.json", "training.json", "certificate.json")
FILES = (*TENSORS, *TEXTS, "manifest.json")
TINY = ["blocks=2", "hidden=[5]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small table with validation, so that all groups of weights are there."""
    folder = tmp_path_factory.mktemp("table")
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "t.csv").write_text("a,b,c\n" + "".join(f"{x},{y},{z}\n" for x, y, z in rows))
    options = [*(f"architecture.options.{one}" for one in TINY), "training.steps=4", "training.validate_every=2"]
    options += ["training.batch_size=16", "evaluation.samples=5", "training.warmup_steps=1"]
    command = ["train", "table", "--out", str(folder / "run"), f"data.name={folder / 't.csv'}", *options]
    assert main(command) == 0
    return folder / "run"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoint, to be damaged."""
    return Path(shutil.copytree(next((run / "checkpoints").iterdir()), tmp_path / "checkpoint"))


def weights(path: Path) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in load_run(path).flow.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())


def refused_or_exact(folder: Path, expected: dict[str, Tensor]) -> bool:
    """Whether a clear error came; if none, the flow is the right one."""
    try:
        loaded = weights(folder)
    except CheckpointError as error:
        said = str(error)
    else:
        assert same(loaded, expected), "silently wrong weights"
        return False
    assert str(folder) in said
    assert "\n" not in said
    return True


def flips(folder: Path, count: int, dice: random.Random) -> dict[str, int]:
    """Flip a bit of a byte in `count` places of every file; how many were refused."""
    expected, refused = weights(folder), dict.fromkeys(FILES, 0)
    for name in FILES:
        content = (folder / name).read_bytes()
        for place in dice.sample(range(len(content)), min(count, len(content))):
            damaged = bytearray(content)
            damaged[place] ^= 1 << dice.randrange(8)
            (folder / name).write_bytes(damaged)
            refused[name] += refused_or_exact(folder, expected)
        (folder / name).write_bytes(content)
        if name != "manifest.json":
            assert refused[name] == min(count, len(content)), "a checksum sees every flip"
    return refused


def truncations(folder: Path, count: int, dice: random.Random) -> None:
    expected = weights(folder)
    for name in FILES:
        content = (folder / name).read_bytes()
        # The manifest's last byte is a line feed: without it nothing is lost.
        for length in {0, len(content) - 2, *(dice.randrange(len(content) - 1) for _ in range(count))}:
            (folder / name).write_bytes(content[:length])
            assert refused_or_exact(folder, expected)
        (folder / name).write_bytes(content)


def test_flipped_bytes_and_truncation(folder: Path) -> None:
    flips(folder, 18, random.Random(0))
    truncations(folder, 4, random.Random(0))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_thousands_of_flipped_bytes_and_truncations(folder: Path) -> None:
    print(flips(folder, 1000, random.Random(1)))
    truncations(folder, 200, random.Random(1))


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_commands_end_with_one_line_and_exit_code_2(
    folder: Path, run: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    dice, out = random.Random(2), folder.parent / "samples.csv"
    commands = [
        ["sample", str(folder), "--out", str(out), "--n", "3"],
        ["score", str(folder), str(run.parent / "t.csv")],
        ["certify", str(folder)],
        ["evaluate", str(folder)],
    ]
    for name in FILES:
        content = (folder / name).read_bytes()
        for command in commands * count:
            damaged = bytearray(content)
            damaged[dice.randrange(len(content) - 1)] ^= 0x80  # no ASCII character is another one then
            (folder / name).write_bytes(damaged if dice.random() < 0.7 else content[: dice.randrange(len(content) - 1)])
            assert main(command) == 2
            shown = capsys.readouterr()
            assert shown.out == ""
            assert shown.err.startswith(f"contraflow: error: {folder}")
            assert shown.err.count("\n") == 1
            assert not out.exists()
        (folder / name).write_bytes(content)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file, and the manifest with it, as somebody who means harm would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, 1e308, -1.5, math.inf, math.nan])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(["meta", "float16", "cuda"]))
VALUES = st.recursive(
    LEAVES, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=2), max_leaves=4
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "remove", "add"]), st.integers(0, 999), VALUES),
    min_size=1,
    max_size=3,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path] * bool(path) + [deeper for key in keys for deeper in places(value[key], (*path, key))]


def changed(value: Any, changes: list[tuple[str, int, Any]]) -> Any:
    value = copy.deepcopy(value)
    for what, where, new in changes:
        known = places(value)
        if not known:
            break
        *way, last = known[where % len(known)]
        inside = value
        for key in way:
            inside = inside[key]
        if what == "set":
            inside[last] = new
        elif what == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside["added"] = new
        else:
            inside.append(new)
    return value


def load_as_a_user(folder: Path) -> str:
    """The flow and the state of training of a checkpoint that may be anything; what was said against it."""
    start = time.process_time()
    said = ""
    try:
        load_run(folder)
        checkpoint = load_checkpoint(folder)
        recipe = Recipe.from_dict(checkpoint.config.get("recipe"))
        recipe.device, recipe.seed = "cpu", 0
        checkpoint.restore(TrainingState.begin(fresh_flow(), recipe.training, 0))
    except CheckpointError as error:
        said = str(error)
    assert time.process_time() - start < 10
    assert "\n" not in said
    return said


def fresh_flow() -> Any:
    recipe = Recipe()
    recipe.architecture.name, recipe.architecture.options = "residual_flow_table", {"blocks": 2, "hidden": [5]}
    from contraflow.preprocessing import TablePreprocessing

    return build_flow(recipe, (3,), TablePreprocessing([0.0] * 3, [1.0] * 3))


def fuzz_json(folder: Path, examples: int) -> None:
    contents = {name: (folder / name).read_bytes() for name in FILES}

    @seed(7)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["config.json", "config.json", "config.json", "training.json", "manifest.json"]), CHANGES)
    def fuzzed(name: str, changes: list[tuple[str, int, Any]]) -> None:
        for one, content in contents.items():
            (folder / one).write_bytes(content)
        content = json.dumps(changed(json.loads(contents[name]), changes)).encode()
        if name == "manifest.json":
            (folder / name).write_bytes(content)
        else:
            rewrite(folder, name, content)
        load_as_a_user(folder)

    fuzzed()


def fuzz_bytes(folder: Path, examples: int) -> None:
    contents = {name: (folder / name).read_bytes() for name in FILES}

    @seed(8)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([*TENSORS, *TENSORS, *TEXTS]), st.sampled_from(TENSORS), EDITS)
    def fuzzed(name: str, other: str, edits: list[tuple[int, int, int]]) -> None:
        for one, content in contents.items():
            (folder / one).write_bytes(content)
        rewrite(folder, name, mutated(contents[name], contents[other], edits))
        load_as_a_user(folder)

    fuzzed()


@pytest.mark.parametrize("fuzz", [fuzz_json, fuzz_bytes])
def test_damage_under_a_right_checksum(folder: Path, fuzz: Any) -> None:
    assert load_as_a_user(folder) == ""
    fuzz(folder, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fuzz", [fuzz_json, fuzz_bytes])
def test_ten_thousand_damages_under_a_right_checksum(folder: Path, fuzz: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz(folder, 10_000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 600


CLAIMS = {
    "blocks": (["architecture", "options", "blocks"], 10**9),
    "width": (["architecture", "options", "hidden"], [10**6, 10**6]),
    "a width that is no integer of torch": (["architecture", "options", "hidden"], [2**63]),
    "an architecture for images": (["architecture", "name"], "residual_flow_celebahq256"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_configuration_cannot_claim_memory(folder: Path, claim: str) -> None:
    way, value = CLAIMS[claim]
    config = json.loads((folder / "config.json").read_text())
    inside = config["recipe"]
    for key in way[:-1]:
        inside = inside[key]
    inside[way[-1]] = value
    rewrite(folder, "config.json", json.dumps(config).encode())
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"config\.json|do not fit") as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff", b"null", b'"x"', b"{} {}", b""]
)
@pytest.mark.parametrize("name", ["config.json", "training.json", "manifest.json"])
def test_json_that_is_none_of_ours(folder: Path, name: str, content: bytes) -> None:
    if name == "manifest.json":
        (folder / name).write_bytes(content)
    else:
        rewrite(folder, name, content)
    assert "damaged" in load_as_a_user(folder)


def test_tensors_that_do_not_fit(folder: Path) -> None:
    """Shapes that would broadcast, names too few, numbers that are none."""
    from safetensors.torch import load_file, save

    def spoilt(file: str, name: str, value: Tensor | None) -> str:
        content = (folder / file).read_bytes()
        tensors = load_file(folder / file)
        known = next(one for one in tensors if one.startswith(name))
        tensors.pop(known) if value is None else tensors.update({known: value})
        rewrite(folder, file, save(tensors))
        said = load_as_a_user(folder)
        rewrite(folder, file, content)
        return said

    for group in ("weights", "average", "best"):
        for value in (None, torch.zeros(1), torch.zeros(2, 2, 2)):
            assert "do not fit" in spoilt("model.safetensors", f"{group}.", value)
    assert "has dtype torch.bfloat16" in spoilt("model.safetensors", "average.", torch.zeros(1, dtype=torch.bfloat16))
    for value in (torch.tensor([0, 0, 1]), torch.tensor([0.5]), torch.tensor([-1, 0]), None):
        assert "does not fit" in spoilt("training.safetensors", "order", value)
    for value in (torch.zeros(3, dtype=torch.uint8), torch.zeros(3), None):
        assert "does not fit" in spoilt("training.safetensors", "random", value)
    assert "has shape (1,)" in spoilt("training.safetensors", "optimiser.", torch.zeros(1))


def test_weights_that_are_not_numbers(folder: Path) -> None:
    from safetensors.torch import load_file, save

    tensors = load_file(folder / "model.safetensors")
    name = next(one for one in tensors if one.startswith("average.") and tensors[one].ndim == 2)
    tensors[name][0, 0] = math.nan
    rewrite(folder, "model.safetensors", save(tensors))
    assert f"{name} contains NaN or infinity" in load_as_a_user(folder)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("training", "steps", "many"), ("training", "polyak", None), ("data", "columns", [1]), ("", "dtype", "float16")],
)
def test_settings_of_another_type_are_named(folder: Path, group: str, key: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config["recipe"][group] if group else config["recipe"])[key] = value
    rewrite(folder, "config.json", json.dumps(config).encode())
    assert f"{key}={value!r} has the wrong type" in load_as_a_user(folder)
