"""`contraflow sample`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from contraflow.cli.console import ProgressBar, show
from contraflow.data import ImagePreprocessing
from contraflow.errors import ConfigurationError, OutputError
from contraflow.evaluation.pictures import image_grid, save_png
from contraflow.recipes import TrainedFlow, load_run
from contraflow.recipes.build import make_generator
from contraflow.recipes.run import draw_samples
from contraflow.recipes.writing import replacing


def sample(
    run: Path,
    out: Path | None = None,
    n: int = 64,
    temperature: float = 1.0,
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
        n: number of samples.
        temperature: factor on the standard deviation of the base; below 1 samples are likelier and less diverse.
        batch_size: samples at once.
        seed: of the base distribution.
        device: cpu, cuda or cuda:N.
        dtype: precision to compute in; as trained when not given.
        force: overwrite `out`.
        json: print JSON.
    """
    if out is None:
        raise ConfigurationError("give --out FILE, a name that ends in .png, .npy or .csv.")
    check_output(out, force, (".png", ".npy", ".csv"))
    trained = load_run(run, device=device, dtype=dtype)
    images = isinstance(trained.flow.preprocessing, ImagePreprocessing)
    if (images and out.suffix == ".csv") or (not images and out.suffix == ".png"):
        fitting = ".png or .npy" if images else ".csv or .npy"
        raise ConfigurationError(f"{out}: samples of shape {trained.flow.event_shape} go to {fitting}.")
    generator = make_generator(trained.flow.device, seed)
    with ProgressBar() as bar:
        samples = draw_samples(trained.flow, n, batch_size, generator, bar, temperature)
    with replacing(out) as temporary:
        _write(samples, temporary, out.suffix, trained)
    show(f"{n} samples {out}", {"samples": str(out), "n": n, "shape": list(trained.flow.event_shape)}, json)


def check_output(out: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Refuse an output path that exists or has another suffix, before any work is done."""
    if out.suffix not in suffixes:
        raise ConfigurationError(f"{out}: the name must end in {', '.join(suffixes)}.")
    if out.exists() and not force:
        raise OutputError(f"{out} exists. Choose another name or overwrite it with --force.")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out}: the folder {out.absolute().parent} does not exist.")


def _write(samples: Tensor, path: Path, suffix: str, trained: TrainedFlow) -> None:
    if suffix == ".png":
        assert isinstance(trained.flow.preprocessing, ImagePreprocessing)
        levels = trained.flow.preprocessing.reduced_levels
        save_png(image_grid(samples, levels), path, scale=max(1, 32 // trained.flow.event_shape[1]))
    elif suffix == ".npy":
        with open(path, "wb") as file:
            np.save(file, samples.numpy())
    else:
        names = trained.columns or tuple(f"x{index}" for index in range(samples.shape[1]))
        with open(path, "w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(names)
            writer.writerows(samples.tolist())
