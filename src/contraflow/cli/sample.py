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
from contraflow.runs.samples import draw_samples


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
    """Draw samples from a trained flow, as a picture of images or as rows of a table.

    Example: contraflow sample run --out samples.png --n 64

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        out: the file to write: .png for images, .csv for tables and 2-D data, .npy for any data. Required.
        n: number of samples; by default 64, or 8 for each temperature of --sweep.
        temperature: factor on the standard deviation of the base distribution; below 1, samples are more likely and
            less diverse.
        sweep: several temperatures separated by commas, such as 0,0.5,1: a picture with one row for each, from the
            same latent noise.
        label: draw samples of this class only, from a hybrid flow: from p(x|y) by rejection, or from the Gaussian of
            the class where the base distribution has one.
        batch_size: samples computed at once.
        seed: seed of the base distribution.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision to compute in, float32 or float64; that of the training by default.
        force: overwrite the file.
        json: print the result as JSON.
    """
    if out is None:
        raise ConfigurationError("sample needs --out FILE, with a name that ends in .png, .npy or .csv.")
    temperatures = _temperatures(sweep) if sweep is not None else [temperature]
    check_output(out, force, (".png",) if sweep is not None else (".png", ".npy", ".csv"))
    count = n if n is not None else 64 if sweep is None else 8
    trained = load_run(run, device=device, dtype=dtype)
    is_image = isinstance(trained.flow.preprocessing, ImagePreprocessing)
    if (is_image and out.suffix == ".csv") or (not is_image and out.suffix == ".png"):
        suffixes = ".png or .npy" if is_image else ".csv or .npy"
        raise ConfigurationError(
            f"{out}: samples of shape {trained.flow.event_shape} are written to a file that ends in {suffixes}."
        )
    with ProgressBar() as bar:
        rows = [
            draw_samples(trained.flow, count, batch_size, make_generator(trained.flow.device, seed), bar, factor, label)
            for factor in temperatures
        ]
    samples = torch.cat(rows)
    with replacing(out) as temporary:
        _write(samples, temporary, out.suffix, trained, columns=count if sweep is not None else None)
    values = {"samples": str(out), "n": len(samples), "shape": list(trained.flow.event_shape)}
    show(f"{len(samples)} samples {out}", values, json)


def _temperatures(sweep: str) -> list[float]:
    """The temperatures of a list such as 0,0.5,1; `draw_samples` checks their range."""
    try:
        return [float(part) for part in sweep.split(",")]
    except ValueError:
        raise ConfigurationError(f"sweep={sweep}: expected temperatures separated by commas: 0,0.5,1.") from None


def check_output(out: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Refuse an output path that exists or has another suffix, before any work is done.

    Raises:
        ConfigurationError: another suffix.
        OutputError: the file exists and `force` is not given, or its folder does not exist.
    """
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
