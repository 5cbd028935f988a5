"""From a recipe, or a run on disk, to a flow."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import Bijection
from contraflow.data import Dataset, Fingerprint, columns_of, indices_of, keep_labels, load_dataset, load_matching, refuse_columns_without_density, remarks
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing, channel_moments, preprocessing_from_config
from contraflow.data.formats.tables import Note, untold
from contraflow.errors import CheckpointError, ConfigurationError, ContraflowError, first_line, unknown_name
from contraflow.flow import Flow
from contraflow.runs.choices import is_a
from contraflow.runs.log import TrainingLog
from contraflow.runs.recipe import DataSettings, Recipe, check_seed
from contraflow.training import Checkpoint, load_checkpoint
from contraflow.training.average import with_weights


def load_data(settings: DataSettings, seed: int) -> Dataset:
    """The data of a recipe."""
    return load_dataset(
        settings.name, root=settings.root, seed=seed, columns=settings.columns, size=settings.size, grey=settings.grey
    )


def load_data_for(
    columns: Sequence[str] | None, settings: DataSettings, seed: int, note: Note | None = None
) -> Dataset:
    """Data for a flow that was trained on columns of these names, its own or others: matched as `load_matching` does.

    Columns that the recipe itself leaves out are nothing new to `note`.
    """
    told = untold if note is None or settings.columns is not None else note
    return load_matching(
        settings.name, columns, root=settings.root, seed=seed, size=settings.size, grey=settings.grey, note=told
    )


def training_rows(recipe: Recipe, data: Dataset) -> tuple[Tensor, Tensor | None]:
    """The rows to train on and their labels, -1 for those that data.labels forgets.

    Raises:
        ConfigurationError: data.labels for data without any.
    """
    settings = recipe.data
    labels = None if data.train_labels is None else data.train_labels[: settings.limit]
    if settings.labels is not None:
        if labels is None:
            raise ConfigurationError(f"data.labels={settings.labels}: the data {data.name!r} have no labels.")
        labels = keep_labels(labels, settings.labels, Generator().manual_seed(recipe.seed))
    return data.train[: settings.limit], labels


def make_preprocessing(recipe: Recipe, data: Dataset) -> Bijection | None:
    """The preprocessing of a recipe, fitted where it has to be.

    Raises:
        ConfigurationError: the kind does not fit the data.
    """
    settings = recipe.preprocessing
    if (settings.kind == "image") != data.is_image:
        fitting = "image" if data.is_image else "standardise, robust or none"
        raise ConfigurationError(
            f"preprocessing.kind={settings.kind}: for the data {data.name!r} it must be {fitting}."
        )
    if settings.kind == "image":
        assert data.levels is not None
        if recipe.data.dequantise:
            raise ConfigurationError(
                f"data.dequantise={recipe.data.dequantise}: it is for columns of tables; images are dequantised anyway."
            )
        if settings.crop_padding >= min(data.event_shape[1:]):
            raise ConfigurationError(
                f"preprocessing.crop_padding={settings.crop_padding}: it must be less than the side of the images, "
                f"which are {data.event_shape[1]}×{data.event_shape[2]}."
            )
        variational = settings.dequantisation == "variational"
        with _seeded(recipe.seed):
            return ImagePreprocessing(
                data.levels,
                settings.bits,
                None if settings.standardise else settings.alpha,
                standardise=channel_moments(data.train, data.levels, settings.bits) if settings.standardise else None,
                flip=settings.flip,
                crop_padding=settings.crop_padding,
                mutate=settings.mutate,
                dequantisation=settings.dequantisation,
                channels=data.event_shape[0] if variational else None,
            )
    wanted = recipe.data.dequantise or []
    if settings.kind == "none":
        if wanted:
            raise ConfigurationError(
                f"data.dequantise={wanted}: it needs preprocessing.kind=standardise or robust, not none."
            )
        return None
    dequantised = indices_of(wanted, data.event_shape[0], data.columns)
    scaling = "robust" if settings.kind == "robust" else "standard"
    return TablePreprocessing.fit(data.train, data.columns, scaling=scaling, dequantise=dequantised)


def check_columns(recipe: Recipe, data: Dataset, preprocessing: Bijection | None) -> list[str]:
    """What to know about the columns of a table before training on them, a line each.

    Raises:
        DataError: a column has too few values for a density, and is not dequantised.
    """
    if data.is_image:
        return []
    rows = data.train[: recipe.data.limit]
    columns = columns_of(rows, data.columns)
    dequantised = indices_of(recipe.data.dequantise or [], len(columns), data.columns)
    refuse_columns_without_density(data.name, columns, dequantised, named=data.columns is not None)
    ours = preprocessing if isinstance(preprocessing, TablePreprocessing) else None
    order = rows.double().sort(dim=0).values
    scaled = (order if ours is None else ours(order)).to(getattr(torch, recipe.dtype))
    return remarks(columns, dequantised, None if ours is None else ours.scaling, scaled.unbind(1))


def build_flow(recipe: Recipe, event_shape: tuple[int, ...], preprocessing: Bijection | None) -> Flow:
    """An untrained flow, its initial weights drawn from the recipe's seed.

    Raises:
        ConfigurationError: unknown architecture or option, or one that does not fit the data.
    """
    device = make_device(recipe.device)
    with _seeded(recipe.seed, [device] if device.type == "cuda" else []):
        flow = _construct(recipe, event_shape, preprocessing)
        return flow.to(device, getattr(torch, recipe.dtype))


@contextmanager
def _seeded(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Initial weights are drawn from the seed, and torch's own streams go on as if nothing had been."""
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _construct(recipe: Recipe, event_shape: tuple[int, ...], preprocessing: Bijection | None) -> Flow:
    name, options = recipe.architecture.name, recipe.architecture.options
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    for option in options:
        if option not in architecture_options(name):
            raise unknown_name("architecture option", option, architecture_options(name))
    if recipe.architecture.norms.kind != "spectral" and "norms" not in _parameters(name):
        raise ConfigurationError(f"architecture.norms.kind={recipe.architecture.norms.kind}: {name} has no such norms.")
    logdet = recipe.estimator
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # refused below, in our words
            norms = recipe.architecture.norms.build()
            given = {"norms": norms, "logdet": logdet, "preprocessing": preprocessing}
            given = {key: value for key, value in given.items() if key in _parameters(name)}
            flow = ARCHITECTURES[name](event_shape, **given, **options)
    except ContraflowError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # options are anything that a command or a file can say
        raise ConfigurationError(
            f"architecture.options={options}: {name} cannot be built so: {first_line(error)}"
        ) from error
    for parameter, value in flow.named_parameters():
        if not value.numel():
            raise ConfigurationError(f"architecture.options={options}: {name} would have an empty {parameter}.")
    return flow


def architecture_options(name: str) -> dict[str, Any]:
    """Option → default of an architecture, those that a recipe can set."""
    build = ARCHITECTURES[name].build
    preset = build.keywords if isinstance(build, partial) else {}
    ours = ("event_shape", "logdet", "inverse", "norms", "preprocessing")
    return {key: preset.get(key, one.default) for key, one in _parameters(name).items() if key not in ours}


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    build = ARCHITECTURES[name].build
    return inspect.signature(build.func if isinstance(build, partial) else build).parameters


def make_device(name: str) -> torch.device:
    """A device that is there.

    Raises:
        ConfigurationError: unknown or absent device.
    """
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigurationError(f"device={name}: it must be cpu, cuda or cuda:N.")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"device={name}: not available here ({first_line(error)}). Try cpu.") from None
    return device


def make_generator(device: torch.device, seed: int) -> Generator:
    """A seeded source of randomness.

    Raises:
        ConfigurationError: the seed is negative, or beyond 63 bits.
    """
    check_seed(seed)
    return Generator(device).manual_seed(seed)


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Stop a construction that makes more parameters than that: a configuration may claim a billion blocks."""
    made = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if next(made) > parameters:
            raise ValueError(f"it asks for more than the {parameters} tensors that are there")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Run:
    """A run on disk, read back: how it came to be, its log, and its flow at the newest checkpoint.

    Attributes:
        flow: with the weights for evaluation.
        recipe: as it was trained, its device included.
        columns: names of the columns of a table; ``None`` for others.
        levels: of the pixels of images; ``None`` for others.
        step: steps of training behind the weights.
        path: folder of the checkpoint.
        fingerprint: of its data; ``None`` in runs from before there were any.
    """

    flow: Flow
    recipe: Recipe
    columns: tuple[str, ...] | None
    levels: int | None
    step: int
    path: Path
    fingerprint: Fingerprint | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run, or the checkpoint itself where that was moved elsewhere."""
        return self.path.parents[1] if self.path.parent.name == "checkpoints" else self.path

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the training log up to the step of the weights; empty where there is no log."""
        return [record for record in TrainingLog(self.folder).records() if record["step"] <= self.step]


def describe(recipe: Recipe, data: Dataset, preprocessing: Bijection | None) -> dict[str, Any]:
    """What a checkpoint says besides its tensors."""
    ours = preprocessing if isinstance(preprocessing, (ImagePreprocessing, TablePreprocessing)) else None
    return {
        "recipe": recipe.as_dict(),
        "event_shape": list(data.event_shape),
        "levels": data.levels,
        "columns": list(data.columns) if data.columns else None,
        "preprocessing": ours.config() if ours is not None else None,
        "data": Fingerprint.of(data).as_dict(),
    }


def recorded_fingerprint(checkpoint: Checkpoint) -> Fingerprint | None:
    """Of the data that a run was trained on; ``None`` in runs from before there were any.

    Raises:
        CheckpointError: config.json has something else in its place.
    """
    found = checkpoint.config.get("data")
    try:
        return None if found is None else Fingerprint.from_dict(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: damaged fingerprint of the data: {first_line(error)}."
        ) from error


def load_run(
    run: str | Path, *, device: str | None = None, dtype: str | None = None, certified: bool = True
) -> Run:
    """The flow of a run or checkpoint folder, with its averaged weights.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.

    Args:
        run: the folder that training wrote.
        device, dtype: where and how precisely to compute; as trained when not given.
        certified: scale layers above their bound down to it; otherwise norms are estimates, as in training.
    """
    make_device(device or "cpu")
    checkpoint = load_checkpoint(Path(run))
    config = checkpoint.config
    try:
        recipe = Recipe.from_dict(config["recipe"])
        here = replace(recipe, device=device or "cpu")
        shape, columns, levels = (config[key] for key in ("event_shape", "columns", "levels"))
        for fine in (is_a(shape, list[int]), is_a(columns, list[str] | None), is_a(levels, int | None)):
            if not fine:
                raise TypeError(f"event_shape={shape!r}, columns={columns!r}, levels={levels!r}")
        preprocessing = preprocessing_from_config(config["preprocessing"]) if config["preprocessing"] else None
        with torch.device("meta"), _at_most(len(checkpoint.model)):  # sizes are compared before memory is taken
            checkpoint.check_fits(_construct(here, tuple(shape), preprocessing))
        flow = build_flow(here, tuple(shape), preprocessing)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: does not describe a flow: {first_line(error)}."
        ) from error
    checkpoint.load_weights(flow)
    if dtype is not None:
        flow = flow.to(getattr(torch, dtype))
    flow = with_weights(flow, checkpoint.evaluation_weights(), certified=certified)
    names = tuple(columns) if columns else None
    fingerprint = recorded_fingerprint(checkpoint)
    return Run(flow, recipe, names, levels, checkpoint.progress["step"], checkpoint.path, fingerprint)
