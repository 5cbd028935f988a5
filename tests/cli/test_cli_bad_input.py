"""What bad input gets: exit code 2, a message that repeats it and says what to do, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from contraflow.cli import COMMANDS, main
from contraflow.cli.parsing import Command

TINY = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=8",
    "architecture.options.dense_blocks=0",
    "training.steps=2",
    "training.batch_size=16",
    "training.validate_every=0",
    "data.limit=64",
    "evaluation.limit=5",
    "evaluation.samples=4",
    "evaluation.draws=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    assert main(["train", "digits", "--out", str(out), *TINY]) == 0
    return out


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str], *expected: str) -> None:
    """The command ends with exit code 2, one error on standard error, and nothing on standard output."""
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("contraflow: error: ")
    for one in expected:
        assert one in err, err


TRAIN = [
    ("digitz", [], ["unknown recipe 'digitz'. Did you mean 'digits'?"]),
    ("digits", ["trainin.steps=3"], ["Did you mean '--training.steps'?"]),
    ("digits", ["--training.step", "3"], ["Did you mean '--training.steps'?"]),
    ("digits", ["--frce"], ["Did you mean '--force'?"]),
    ("digits", ["training.steps=abc"], ["training.steps", "int", "abc"]),
    ("digits", ["training.steps=1.5"], ["training.steps", "1.5"]),
    ("digits", ["training.steps=-1"], ["training.steps=-1: it must be at least 0"]),
    ("digits", ["training.learning_rate=nan"], ["training.learning_rate", "nan"]),
    ("digits", ["training.schedule=cosin"], ["'constant', 'cosine'", "cosin"]),
    ("digits", ["dtype=float16"], ["'float32', 'float64'"]),
    ("digits", ["seed=-1"], ["seed=-1"]),
    ("digits", ["seed=99999999999999999999"], ["seed=99999999999999999999"]),
    ("digits", ["data.limit=0"], ["data.limit=0: it must be at least 1"]),
    ("digits", ["data.name=digitz"], ["Did you mean 'digits'?"]),
    ("digits", ["data.name=absent.csv"], ["absent.csv: no such file"]),
    ("digits", ["evaluation.samples=0"], ["evaluation.samples=0"]),
    ("digits", ["evaluation.estimator.kind=series", "evaluation.estimator.terms=0"], ["terms=0"]),
    ("digits", ["estimator.terms=3"], ["estimator.terms=3: kind=roulette does not accept it, kind=series does."]),
    ("digits", ["estimator.rate=3"], ["estimator.rate=3.0: law=geometric does not accept it, law=poisson does."]),
    (
        "digits",
        ["estimator.kind=exact", "estimator.p=0.5"],
        ["p=0.5: kind=exact does not accept it, law=geometric"],
    ),
    ("moons", ["evaluation.estimator.probes=2"], ["probes=2: kind=exact does not accept it", "and kind=series do."]),
    ("digits", ["estimator.kind=adaptive", "estimator.exact_terms=2"], ["kind=adaptive does not accept it"]),
    ("digits", ["estimator.law=adaptive"], ["'geometric', 'poisson'", "adaptive"]),
    ("digits", ["estimator.p=1.5"], ["Geometric(p=1.5)"]),
    ("digits", ["estimator.trems=3"], ["Did you mean '--estimator.terms'?"]),
    ("digits", ["objective.likelihood_weight=1"], ["kind=likelihood does not accept it, kind=hybrid does."]),
    ("digits_hybrid", ["objective.likelihood_weight=-1"], ["objective.likelihood_weight=-1"]),
    ("digits", ["objective.kind=hybrid"], ["objective.kind=hybrid needs an architecture with a classifier"]),
    ("digits", ["architecture.name=residual_flow_digit"], ["Did you mean 'residual_flow_digits'?"]),
    ("digits", ["architecture.options.hiden=8"], ["Did you mean 'hidden'?"]),
    ("digits", ["architecture.options.hidden=eight"], ["architecture.options=", "'eight'"]),
    ("digits", ["architecture.options.hidden=0"], ["'hidden': 0", "cannot be built with them"]),
    ("digits", ["architecture.options.activation=relu"], ["unknown activation 'relu'"]),
    ("digits", ["architecture.name=residual_flow_table"], ["dense_blocks"]),
    ("digits", ["preprocessing.kind=standardise"], ["preprocessing.kind=standardise", "must be image"]),
    ("digits", ["preprocessing.crop_padding=9"], ["crop_padding=9", "8×8"]),
    ("digits", ["device=gpu"], ["device=gpu: it must be cpu, cuda or cuda:N"]),
    ("moons", ["preprocessing.kind=image"], ["must be standardise, robust or none"]),
    ("mnist", ["data.root=/nonexistent"], ["train-images-idx3-ubyte", "contraflow data fetch mnist"]),
    ("moons", ["moons"], ["unrecognized arguments: moons"]),
    ("absent.yaml", [], ["absent.yaml: no such file"]),
]


@pytest.mark.parametrize(("recipe", "changes", "expected"), TRAIN, ids=[" ".join([one[0], *one[1]]) for one in TRAIN])
def test_training_that_cannot_be(
    recipe: str, changes: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TINY if recipe == "digits" and "table" not in "".join(changes) else TINY[3:]
    if "residual_flow_table" in "".join(changes):
        options = [*options, "architecture.options.dense_blocks=1"]
    refused(["train", recipe, "--out", tmp_path / "run", *options, *changes], capsys, *expected)
    assert not any(tmp_path.iterdir()), "nothing was written"


def test_train_needs_a_recipe_and_a_place(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", "digits"], capsys, "give either --out RUN for a new run or --resume RUN")
    refused(["train", "--out", tmp_path / "run"], capsys, "no recipe given", "contraflow recipes")
    refused(["train", "digits", "--resume", run], capsys, "--resume takes the recipe from", "leave out digits")
    refused(["train", "--resume", run, "--out", tmp_path / "run"], capsys, "either --out RUN")
    refused(["train", "--resume", tmp_path / "none"], capsys, "no such folder")
    refused(["train", "--resume", tmp_path], capsys, "holds no checkpoint")
    refused(["train", "digits", "--out"], capsys, "--out")
    assert not any(tmp_path.iterdir())


YAML = [
    ("recipe: digitz\n", ["recipe in", "Did you mean 'digits'?"]),
    ("recipe: digits\ntrainng: {steps: 3}\n", ["key in", "Did you mean 'training'?"]),
    ("recipe: digits\ntraining: {step: 3}\n", ["'training.step'", "Did you mean 'training.steps'?"]),
    ("recipe: digits\nevaluation: {estimator: {q: 3}}\n", ["'evaluation.estimator.q'"]),
    ("recipe: digits\nestimator: {kind: series, p: 0.5}\n", ["estimator.p=0.5: kind=series does not accept it"]),
    ("recipe: digits\nestimator: 3\n", ["estimator=3"]),
    ("recipe: digits\narchitecture: {options: {hiden: 3}}\n", ["Did you mean 'hidden'?"]),
    ("recipe: digits\ntraining: {steps: many}\n", ["training.steps", "many"]),
    ("recipe: digits\ntraining: 3\n", ["training=3"]),
    ("recipe: [digits]\n", ["unknown recipe", "['digits']"]),
    ("- recipe\n", ["expected keys and values, got list"]),
    ("", ["expected keys and values"]),
    ("recipe: {digits\n", ["cannot be read"]),
    ("recipe: !!python/object/apply:os.system ['true']\n", ["cannot be read"]),
]


@pytest.mark.parametrize(("text", "expected"), YAML, ids=[one[0] for one in YAML])
def test_a_bad_settings_file(
    text: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    refused(["train", file, "--out", tmp_path / "run", *TINY[3:]], capsys, *expected)
    assert not (tmp_path / "run").exists()


def test_a_bad_toml_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("recipe = digits\n")
    refused(["train", file, "--out", tmp_path / "run"], capsys, str(file), "cannot be read")
    file.write_text('recipe = "digits"\n[training]\nstepz = 3\n')
    refused(["train", file, "--out", tmp_path / "run"], capsys, "Did you mean 'training.steps'?")
    file.write_bytes(b"\xff\xfe\x00")
    refused(["train", file, "--out", tmp_path / "run"], capsys, str(file), "cannot be read")


def test_an_output_that_exists(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in run.rglob("*"))
    refused(["train", "digits", "--out", run, *TINY], capsys, "exists", "--resume", "--force")
    assert sorted(path.name for path in run.rglob("*")) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    refused(["train", "digits", "--out", tmp_path / "thesis", "--force", *TINY], capsys, "not the folder of a run")
    (tmp_path / "file").write_text("kept")
    refused(["train", "digits", "--out", tmp_path / "file", "--force", *TINY], capsys, "not the folder of a run")
    refused(["train", "digits", "--out", tmp_path / "file" / "run", *TINY], capsys, "cannot be written")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "kept"
    for name in ("a.png", "a.npy"):
        (tmp_path / name).write_text("kept")
        refused(["sample", run, "--out", tmp_path / name], capsys, "exists", "--force")
        assert (tmp_path / name).read_text() == "kept"
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.uint8))
    (tmp_path / "a.csv").write_text("kept")
    refused(["score", run, tmp_path / "x.npy", "--out", tmp_path / "a.csv"], capsys, "exists", "--force")
    assert (tmp_path / "a.csv").read_text() == "kept"


def test_force_with_a_recipe_that_fails_deletes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["train", "digits", "--out", run, "--force", *TINY, "architecture.options.hiden=3"], capsys, "hiden")
    assert main(["evaluate", str(run), "--limit", "2"]) == 0


EVALUATE: list[tuple[list[str], list[str]]] = [
    (["--dat", "digits"], ["Did you mean '--data'?"]),
    (["--data", "digitz"], ["Did you mean 'digits'?"]),
    (["--data", "moons"], ["(1, 8, 8)", "moons has (2,)"]),
    (["--split", "tset"], ["split", "tset"]),
    (["--draws", "0"], ["draws=0"]),
    (["--limit", "0"], ["limit=0"]),
    (["--limit", "-3"], ["limit"]),
    (["--exact_terms", "-1"], ["exact_terms=-1"]),
    (["--seed", "-1"], ["seed"]),
    (["--dtype", "half"], ["dtype", "half"]),
    (["--device", "gpu"], ["device=gpu: it must be cpu, cuda or cuda:N"]),
    (["--device", "meta"], ["device=meta"]),
]


@pytest.mark.parametrize(("options", "expected"), EVALUATE, ids=[" ".join(one[0]) for one in EVALUATE])
def test_evaluate_that_cannot_be(
    options: list[str], expected: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["evaluate", run, *options], capsys, *expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is present")
@pytest.mark.parametrize("command", ["evaluate", "sample", "train"])
def test_cuda_that_is_absent(command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: dict[str, list[object]] = {
        "evaluate": ["evaluate", run, "--device", "cuda"],
        "sample": ["sample", run, "--device", "cuda:1", "--out", tmp_path / "a.png"],
        "train": ["train", "digits", "--out", tmp_path / "run", "device=cuda", *TINY],
    }
    refused(arguments[command], capsys, "device=cuda", "not available here", "Try cpu.")
    assert not any(tmp_path.iterdir())


SAMPLE: list[tuple[list[str], list[str]]] = [
    ([], ["--out"]),
    (["--out", "a.jpg"], [".png, .npy, .csv"]),
    (["--out", "a.csv"], [".png or .npy"]),
    (["--out", "/nonexistent/a.png"], ["/nonexistent does not exist"]),
    (["--out", "a.png", "--n", "0"], ["n=0"]),
    (["--out", "a.png", "--n", "many"], ["many"]),
    (["--out", "a.png", "--batch_size", "0"], ["batch_size=0"]),
    (["--out", "a.png", "--temperature=-1"], ["temperature=-1.0"]),
    (["--out", "a.png", "--seed", "99999999999999999999"], ["seed=99999999999999999999"]),
]


@pytest.mark.parametrize(("options", "expected"), SAMPLE, ids=[" ".join(one[0]) for one in SAMPLE])
def test_samples_that_cannot_be(
    options: list[str],
    expected: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["sample", run, *options], capsys, *expected)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((3, 1, 9, 9), np.uint8), ["(1, 9, 9)", "(1, 8, 8)"]),
        (np.zeros((3, 3, 8, 8), np.uint8), ["(3, 8, 8)", "(1, 8, 8)"]),
        (np.zeros((3, 64), np.float32), ["(64,)", "(1, 8, 8)"]),
        (np.full((3, 64), np.nan, np.float32), ["row 0, column 0 is nan"]),
        (np.full((3, 1, 8, 8), 17, np.uint8), ["0…16", "17"]),
        (np.zeros((3, 1, 8, 8), np.complex64), ["complex64"]),
        (np.array(["a", "b"]), ["<U1"]),
    ],
)
def test_arrays_that_do_not_fit(
    array: np.ndarray, expected: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(["score", run, tmp_path / "x.npy", "--out", tmp_path / "scores.csv"], capsys, *expected)
    assert not (tmp_path / "scores.csv").exists()


def test_files_that_are_not_what_they_say(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["score", run, tmp_path / "absent.npy"], capsys, "no such file or folder")
    for name in ("empty.npy", "empty.npz", "empty.csv", "empty.parquet"):
        (tmp_path / name).touch()
        refused(["score", run, tmp_path / name], capsys, name)
    (tmp_path / "x.txt.gz").touch()
    refused(["score", run, tmp_path / "x.txt.gz"], capsys, "unknown suffix")
    (tmp_path / "folder").mkdir()
    refused(["score", run, tmp_path / "folder"], capsys, "folder")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    refused(["score", run, tmp_path / "objects.npy"], capsys, "Python objects")


def test_a_corrupt_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.safetensors", "config.json"):
        copy = tmp_path / name
        shutil.copytree(run, copy)
        file = next(copy.glob(f"checkpoints/*/{name}"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        for command in (["evaluate", copy], ["sample", copy, "--out", tmp_path / "a.png"], ["train", "--resume", copy]):
            refused(command, capsys, str(file), "damaged")
    assert not (tmp_path / "a.png").exists()


def test_a_newer_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run")
    manifest = next((tmp_path / "run").glob("checkpoints/*/manifest.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 7}))
    refused(["evaluate", tmp_path / "run"], capsys, "schema 7", "newer contraflow")
    manifest.write_text(json.dumps({"format": "pytorch"}))
    refused(["evaluate", tmp_path / "run"], capsys, "not a contraflow checkpoint")


def test_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["trian"], capsys, "unknown command 'trian'. Did you mean 'train'?")
    refused(["evaluate"], capsys, "required: run", "contraflow evaluate --help")
    refused(["evaluate", "nowhere"], capsys, "nowhere: no such folder")
    refused(["data", "fech"], capsys, "data list")
    refused(["data", "fetch"], capsys, "data fetch NAME")
    refused(["data", "check", "mnits"], capsys, "Did you mean 'mnist'?")
    refused(["recipes", "--jsn"], capsys, "Did you mean '--json'?")
    refused(["completion", "fish"], capsys, "bash, zsh, tcsh")
    refused(["score", "run", "gr\udcc3\udcb6.csv"], capsys, "surrogates not allowed", "PYTHONUTF8=1")


def test_a_full_disk(small_disk: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small_disk / "run"
    assert main(["train", "digits", "--out", str(out), *TINY]) == 0
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            for size in (4096, 1):
                while file.write(b"x" * size):
                    pass
        except OSError:
            pass
    refused(["train", "--resume", out, "training.steps=4"], capsys, "No space left on device", str(out))
    filler.unlink()
    assert main(["train", "--resume", str(out), "training.steps=4"]) == 0
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()][-1] == 4
    array = small_disk / "big.npy"
    refused(
        ["sample", run, "--out", array, "--n", "6000", "--batch_size", "6000"], capsys, "big.npy: cannot be written"
    )
    assert sorted(path.name for path in small_disk.iterdir()) == ["run"]
    rows = tmp_path / "rows.npy"
    np.save(rows, np.zeros((15000, 1, 8, 8), np.uint8))
    command = ["score", run, rows, "--out", small_disk / "s.csv", "--draws", "1", "--exact_terms", "1"]
    refused([*command, "--batch_size", "15000"], capsys, "s.csv: cannot be written", "No space left")
    assert sorted(path.name for path in small_disk.iterdir()) == ["run"]


def test_errors_of_the_system_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "log.jsonl").unlink()
    (copy / "log.jsonl").mkdir()
    refused(["train", "--resume", copy], capsys, f"{copy / 'log.jsonl'}: Is a directory.")
    array = tmp_path / "a.npy"
    count = str(10**13)
    refused(
        ["sample", run, "--out", array, "--n", count, "--batch-size", count],
        capsys,
        "not enough memory",
        "smaller batch_size",
    )
    assert not array.exists()

    def fails(run: Path) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(COMMANDS, "certify", Command(fails))
    refused(["certify", run], capsys, "ZeroDivisionError: division by zero, test_cli_bad_input.py line", "report it")
    monkeypatch.setenv("CONTRAFLOW_TRACEBACK", "1")
    assert main(["certify", str(run)]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 2, "contraflow: error: standard output: No space left on device.\n"),
        (">&-", 0, ""),
    ],
)
def test_standard_output_that_is_full_or_closed(redirection: str, code: int, said: str) -> None:
    if redirection == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = f"{sys.executable} -m contraflow recipes {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)
