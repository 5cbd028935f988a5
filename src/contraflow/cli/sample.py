"""`contraflow sample`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from contraflow.cli.console import ProgressBar, show
from contraflow.errors import ConfigurationError, OutputError
from contraflow.evaluation.figures import save_png
from contraflow.evaluation.pictures import image_grid
from contraflow.files import replacing
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing
from contraflow.runs import Run, load_run
from contraflow.runs.build import make_generator
from contraflow.runs.run import draw_samples


def sample(
    run: Path,
    out: Path | None = None,
    n: int | None = None,
    temperature: float = 1.0,
    sweep: str | None = None,
    label: int | None = None,
    batch_size: int = 100,
    seed: int = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Draw samples from a trained flow: a PNG grid of images, or .npy or .csv rows.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        out: .png (images), .npy (anything) or .csv (tables and 2-D).
        n: number of samples; 64, or 8 for every temperature of a sweep, when not given.
        temperature: factor on the standard deviation of the base; below 1 samples are likelier and less diverse.
        sweep: temperatures such as 0,0.5,1 instead: a picture with a row for each, the same latent noise in all rows.
        label: class to draw samples of, from a hybrid flow: exactly those of p(x|y), by rejection, or from the Gaussian
            of that class where the base has one.
        batch_size: samples at once.
        seed: of the base distribution.
        device: cpu, cuda or cuda:N.
        dtype: precision to compute in; as trained when not given.
        force: overwrite `out`.
        json: print JSON.
    """
    if out is None:
        raise ConfigurationError("give --out FILE, a name that ends in .png, .npy or .csv.")
    temperatures = _temperatures(sweep) if sweep is not None else [temperature]
    check_output(out, force, (".png",) if sweep is not None else (".png", ".npy", ".csv"))
    count = n if n is not None else 64 if sweep is None else 8
    trained = load_run(run, device=device, dtype=dtype)
    images = isinstance(trained.flow.preprocessing, ImagePreprocessing)
    if (images and out.suffix == ".csv") or (not images and out.suffix == ".png"):
        fitting = ".png or .npy" if images else ".csv or .npy"
        raise ConfigurationError(f"{out}: samples of shape {trained.flow.event_shape} go to {fitting}.")
    with ProgressBar() as bar:
        rows = [
            draw_samples(trained.flow, count, batch_size, make_generator(trained.flow.device, seed), bar, one, label)
            for one in temperatures
        ]
    samples = torch.cat(rows)
    with replacing(out) as temporary:
        _write(samples, temporary, out.suffix, trained, columns=count if sweep is not None else None)
    values = {"samples": str(out), "n": len(samples), "shape": list(trained.flow.event_shape)}
    show(f"{len(samples)} samples {out}", values, json)


def _temperatures(sweep: str) -> list[float]:
    """The temperatures of a list such as 0,0.5,1; whether each can be one is checked where it is used."""
    try:
        return [float(part) for part in sweep.split(",")]
    except ValueError:
        raise ConfigurationError(f"sweep={sweep}: give temperatures with commas between them, 0,0.5,1.") from None


def check_output(out: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Refuse an output path that exists or has another suffix, before any work is done."""
    if out.suffix not in suffixes:
        raise ConfigurationError(f"{out}: the name must end in {', '.join(suffixes)}.")
    if out.exists() and not force:
        raise OutputError(f"{out} exists. Choose another name or overwrite it with --force.")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out}: the folder {out.absolute().parent} does not exist.")


def _write(samples: Tensor, path: Path, suffix: str, trained: Run, *, columns: int | None) -> None:
    if suffix == ".png":
        assert isinstance(trained.flow.preprocessing, ImagePreprocessing)
        levels = trained.flow.preprocessing.reduced_levels
        save_png(image_grid(samples, levels, columns=columns), path, scale=max(1, 32 // trained.flow.event_shape[1]))
    elif suffix == ".npy":
        with open(path, "wb") as file:
            np.save(file, samples.numpy())
    else:
        names = trained.columns or tuple(f"x{index + 1}" for index in range(samples.shape[1]))
        with open(path, "w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(names)
            preprocessing = trained.flow.preprocessing
            integers = preprocessing.ranges if isinstance(preprocessing, TablePreprocessing) else {}
            writer.writerows(
                [int(value) if index in integers else value for index, value in enumerate(row)]
                for row in samples.tolist()
            )
