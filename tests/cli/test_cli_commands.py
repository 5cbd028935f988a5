"""The commands on a tiny run: train, evaluate, sample, score and the catalogues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contraflow.cli import COMMANDS, main

TINY = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=8",
    "architecture.options.dense_blocks=1",
    "architecture.options.dense_hidden=8",
    "training.steps=6",
    "training.batch_size=16",
    "training.log_every=2",
    "training.validate_every=0",
    "data.limit=64",
    "evaluation.limit=20",
    "evaluation.samples=9",
    "evaluation.draws=1",
]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    full = [sys.executable, "-m", "contraflow", *map(str, arguments)]
    return subprocess.run(full, capture_output=True, text=True, env=environment, timeout=280, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run, and what the command said."""
    run = tmp_path_factory.mktemp("digits") / "run"
    return run, command("train", "digits", "--out", run, *TINY)


@pytest.fixture(scope="module")
def run(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return trained[0]


def test_train_ends_with_score_picture_and_checkpoint(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = trained
    assert done.returncode == 0, done.stderr
    score, samples = done.stdout.splitlines()
    assert score.startswith("test bits/dim ")
    assert "± 0." in score
    assert "(20 images, 20 exact terms" in score
    assert samples == f"samples {run / 'samples.png'}"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "evaluation.json", "log.jsonl", "samples.png"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000006"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6]
    assert {"bits_per_dim", "gradient_norm", "lipschitz", "seconds"} <= set(log[0])


def test_progress_goes_to_standard_error_only(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    done = trained[1]
    assert "training 2/6" in done.stderr
    assert "|grad|" in done.stderr
    assert "Lip" in done.stderr
    assert "training" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    words = {
        "train": (
            "--out",
            "--resume",
            "--training.steps",
            "number of optimiser steps",
            "--seed",
            "--device",
            "--dtype",
        ),
        "evaluate": ("run", "--split", "--exact_terms", "--seed", "--device", "--dtype", "--json"),
        "sample": ("run", "--out", "--temperature", "--seed", "--device", "--dtype", "--force"),
        "score": ("run", "file", "--draws", "--seed", "--device", "--dtype", "--json"),
        "report": ("run", "--out", "--rows", "--other", "--seed", "--json"),
        "data": ("list, fetch (download", "--root"),
        "completion": ("shell", "bash, zsh or tcsh"),
    }
    for word in (*words.get(name, ("--json",)), "Example"):
        assert word in text, word
    assert not any(jargon in text for jargon in ("<class", "default: null", "Optional["))


def test_help_says_which_defaults_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A number, zero included, is shown; that a switch is off, or that nothing is given, is not."""
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "seed of the base distribution. (default: 0)" in text
    assert "overwrite the file. --json" in text
    assert "(default: 1.0)" in text


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "contraflow train digits --out run" in text


def test_evaluate_prints_and_json_agrees(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--limit", "20"]) == 0
    first = capsys.readouterr().out
    assert main(["evaluate", str(run), "--limit", "20", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert first.startswith(f"bits/dim {values['value']:.3f} ± {values['standard_error']:.3f} (20 images, ")
    assert values["step"] == 6
    assert values["split"] == "test"
    assert main(["evaluate", str(run), "--limit", "20"]) == 0
    assert capsys.readouterr().out == first, "same seed, same output"
    assert main(["evaluate", str(run), "--limit", "20", "--seed", "1"]) == 0
    assert capsys.readouterr().out != first


def test_evaluate_repeats_the_score_of_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--limit", "20", "--json"]) == 0
    ours, theirs = json.loads(capsys.readouterr().out), json.loads((run / "evaluation.json").read_text())
    assert {key: ours[key] for key in theirs} == theirs


def test_evaluate_in_double_precision(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = []
    for dtype in ("float32", "float64"):
        assert main(["evaluate", str(run), "--limit", "10", "--exact", "--json", "--dtype", dtype]) == 0
        values.append(json.loads(capsys.readouterr().out)["value"])
    assert values[0] == pytest.approx(values[1], abs=0.2)  # other dequantisation noise


def test_a_checkpoint_folder_is_as_good_as_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for folder in (run, run / "checkpoints" / "00000006"):
        assert main(["evaluate", str(folder), "--limit", "5"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_sample_png_and_npy(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, array, again = tmp_path / "a.png", tmp_path / "a.npy", tmp_path / "b.npy"
    assert main(["sample", str(run), "--out", str(picture), "--n", "9"]) == 0
    with Image.open(picture) as image:
        assert image.size == (4 * (3 * 9 + 1), 4 * (3 * 9 + 1))  # 3×3 images of 8×8, gaps of 1, four times enlarged
    assert capsys.readouterr().out == f"9 samples {picture}\n"
    assert main(["sample", str(run), "--out", str(array), "--n", "9", "--batch_size", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"samples": str(array), "n": 9, "shape": [1, 8, 8]}
    samples = np.load(array)
    assert samples.shape == (9, 1, 8, 8)
    assert samples.dtype == np.uint8
    assert samples.max() <= 16
    assert main(["sample", str(run), "--out", str(again), "--n", "9", "--batch-size", "4"]) == 0
    assert array.read_bytes() == again.read_bytes(), "same seed, same output"
    assert main(["sample", str(run), "--out", str(again), "--n", "9", "--seed", "5", "--force"]) == 0
    assert array.read_bytes() != again.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.png", "b.npy"], "nothing left over"


def test_a_sweep_has_a_row_for_every_temperature(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are the pictures that each temperature alone gives from the same seed."""
    sweep = tmp_path / "sweep.png"
    assert main(["sample", str(run), "--out", str(sweep), "--n", "3", "--sweep", "0,0.5,1", "--seed", "4"]) == 0
    assert capsys.readouterr().out == f"9 samples {sweep}\n"
    with Image.open(sweep) as image:
        pixels = np.asarray(image)
    side = 4 * 9  # 8×8 images with a gap of 1, four times enlarged
    assert pixels.shape == (3 * side + 4, 3 * side + 4)
    for row, temperature in enumerate((0, 0.5, 1)):
        array = tmp_path / f"{row}.npy"
        arguments = ["--out", str(array), "--n", "3", "--temperature", str(temperature), "--seed", "4"]
        assert main(["sample", str(run), *arguments]) == 0
        expected = np.load(array)[:, 0].astype(int) * 255 / 16
        found = pixels[row * side + 4 : (row + 1) * side : 4, 4::4].reshape(8, 3, 9)[:, :, :8].transpose(1, 0, 2)
        assert np.abs(found - expected).max() <= 0.5
    assert main(["sample", str(run), "--out", str(tmp_path / "8.png"), "--sweep", "1"]) == 0
    with Image.open(tmp_path / "8.png") as image:
        assert image.size == (8 * side + 4, side + 4)


def test_a_sweep_that_cannot_be(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sweep, name, message in (
        ("0,warm", "a.png", "sweep=0,warm: expected temperatures"),
        ("0,-1", "a.png", "temperature must not be negative"),
        ("0,1", "a.npy", "the name must end in .png"),
    ):
        assert main(["sample", str(run), "--out", str(tmp_path / name), "--sweep", sweep]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_samples_are_scored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = tmp_path / "samples.npy"
    assert main(["sample", str(run), "--out", str(array), "--n", "5"]) == 0
    capsys.readouterr()
    assert main(["score", str(run), str(array), "--draws", "2"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "row,log_prob,standard_error"
    assert [int(row.split(",")[0]) for row in rows] == list(range(5))
    assert all(-300 < float(row.split(",")[1]) < 0 < float(row.split(",")[2]) for row in rows)
    assert main(["score", str(run), str(array), "--draws", "2", "--json"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"{one['row']},{one['log_prob']:.6f},{one['standard_error']:.6f}" for one in values] == rows
    out = tmp_path / "scores.csv"
    assert main(["score", str(run), str(array), "--draws", "2", "--out", str(out)]) == 0
    assert out.read_text().splitlines() == [header, *rows]
    assert main(["score", str(run), str(array), "--draws", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["standard_error"] is None


def test_a_folder_of_images_is_scored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((16, 16), 5, np.uint8)).save(tmp_path / f"{name}.png")
    assert main(["score", str(run), str(tmp_path), "--draws", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_images_that_are_not_square(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, scored, sampled and evaluated: a folder's scores are those of the array of its images."""
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 6), dtype=np.uint8)
    for index, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{index:02d}.png")
    options = [f"data.name={folder}", "data.grey=true", "architecture.name=nice", "training.steps=1"]
    assert main(["train", "digits", *options, "--out", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    capsys.readouterr()
    assert main(["score", str(run), str(folder)]) == 0
    scored = capsys.readouterr().out
    np.save(tmp_path / "x.npy", pixels)
    assert main(["score", str(run), str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out == scored
    assert main(["sample", str(run), "--n", "2", "--out", str(tmp_path / "s.npy")]) == 0
    assert np.load(tmp_path / "s.npy").shape == (2, 1, 4, 6)


@pytest.mark.parametrize("name", ["recipes", "architectures", "data"])
def test_catalogues(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0
    text = capsys.readouterr().out
    assert main([name, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    names = [one["name"] for one in values] if name == "architectures" else list(values)
    assert len(names) > 8
    assert all(f"{one} " in text for one in names)


def test_the_papers_cifar_model_has_25_million_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["architectures", "--json"]) == 0
    counts = {one["name"]: one["parameters"] for one in json.loads(capsys.readouterr().out)}
    assert counts["residual_flow_cifar10"] == pytest.approx(25.2e6, rel=0.005)


def test_data_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "check", "digits"]) == 0
    assert "needs no file" in capsys.readouterr().out
    assert main(["data", "check", "mnist", "--root", str(tmp_path)]) == 0
    assert "absent" in capsys.readouterr().out


def test_the_completion_script_is_valid_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert all(name in script for name in (*COMMANDS, "--training.steps", "checkerboard"))


def test_a_pipe_that_closes_early_makes_no_noise(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.zeros((2500, 1, 8, 8), np.uint8))  # more output than a pipe holds
    full = f"{sys.executable} -m contraflow score {run} {rows} --draws 1 --exact_terms 1 --batch_size 2500 --json"
    shell = f"set -o pipefail; {full} | head -n 1"
    # Unbuffered, the error would come while printing; by default it waits for the end.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["row"] == 0
    assert done.returncode == 0
    for words in ("recipes", "evaluate --help"):
        shell = f"set -o pipefail; {sys.executable} -m contraflow {words} | true"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_force_replaces_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), *TINY, "training.steps=1"]) == 0
    (out / "mine.txt").write_text("")
    assert main(["train", "digits", "--out", str(out), *TINY, "training.steps=2"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "mine.txt").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000001"]
    assert main(["train", "digits", "--out", str(out), "--force", *TINY, "training.steps=2"]) == 0
    assert not (out / "mine.txt").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["00000002"]


@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_settings_from_a_file(suffix: str, tmp_path: Path) -> None:
    texts = {
        "yaml": "recipe: digits\nseed: 7\ntraining:\n  steps: 2\n  batch_size: 8\n",
        "toml": 'recipe = "digits"\nseed = 7\n[training]\nsteps = 2\nbatch_size = 8\n',
        "json": '{"recipe": "digits", "seed": 7, "training": {"steps": 2, "batch_size": 8}}',
    }
    file = tmp_path / f"settings.{suffix}"
    file.write_text(texts[suffix])
    rest = [one for one in TINY if not one.startswith(("training.steps", "training.batch_size"))]
    out = tmp_path / "run"
    assert main(["train", str(file), "--out", str(out), *rest, "training.batch_size=4"]) == 0
    config = json.loads((out / "checkpoints" / "00000002" / "config.json").read_text())
    assert config["recipe"]["seed"] == 7
    assert config["recipe"]["training"]["batch_size"] == 4, "what stands on the command line comes last"
    assert config["recipe"]["training"]["schedule"] == "cosine", "the rest is the recipe's"


def test_printed_config_feeds_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", "digits", "--print_config", *TINY, "training.steps=2", "seed=5"])
    assert exit_.value.code == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out)
    direct, fed = tmp_path / "direct", tmp_path / "fed"
    assert main(["train", "digits", "--out", str(direct), *TINY, "training.steps=2", "seed=5"]) == 0
    assert main(["train", str(file), "--out", str(fed)]) == 0
    ours, theirs = (run / "checkpoints" / "00000002" for run in (direct, fed))
    for name in ("config.json", "model.safetensors"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
