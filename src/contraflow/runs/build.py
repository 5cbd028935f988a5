"""Makes data, preprocessing and flow from a recipe, and loads the flow of a run from disk."""

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
from contraflow.data import (
    Dataset,
    Fingerprint,
    columns_of,
    indices_of,
    keep_labels,
    load_dataset,
    load_matching,
    refuse_columns_without_density,
    remarks,
)
from contraflow.data.formats.tables import Note, no_note
from contraflow.errors import CheckpointError, ConfigurationError, ContraflowError, first_line, unknown_name
from contraflow.flow import Flow
from contraflow.preprocessing import ImagePreprocessing, TablePreprocessing, channel_moments, preprocessing_from_config
from contraflow.runs.choices import is_a
from contraflow.runs.log import TrainingLog
from contraflow.runs.recipe import DataSettings, Recipe, check_seed
from contraflow.training import Checkpoint, load_checkpoint
from contraflow.training.average import with_weights


def load_data(settings: DataSettings, seed: int) -> Dataset:
    """Load the data of a recipe."""
    return load_dataset(
        settings.name, root=settings.root, seed=seed, columns=settings.columns, size=settings.size, grey=settings.grey
    )


def load_data_for(
    columns: Sequence[str] | None, settings: DataSettings, seed: int, note: Note | None = None
) -> Dataset:
    """Load data for a flow that was trained on columns of these names; `load_matching` finds them in the data.

    `note` is told which columns are left out, unless the recipe itself chooses columns.
    """
    report = no_note if note is None or settings.columns is not None else note
    return load_matching(
        settings.name, columns, root=settings.root, seed=seed, size=settings.size, grey=settings.grey, note=report
    )


def training_rows(recipe: Recipe, data: Dataset) -> tuple[Tensor, Tensor | None]:
    """The rows to train on, and their labels; the label is -1 where data.labels removes it.

    Raises:
        ConfigurationError: data.labels is set, and the data have no labels.
    """
    settings = recipe.data
    labels = None if data.train_labels is None else data.train_labels[: settings.limit]
    if settings.labels is not None:
        if labels is None:
            raise ConfigurationError(f"data.labels={settings.labels}: the data {data.name!r} have no labels.")
        labels = keep_labels(labels, settings.labels, Generator().manual_seed(recipe.seed))
    return data.train[: settings.limit], labels


def make_preprocessing(recipe: Recipe, data: Dataset) -> Bijection | None:
    """The preprocessing of a recipe, fitted to the training rows where it has statistics of them.

    Raises:
        ConfigurationError: the settings do not fit the data.
    """
    settings = recipe.preprocessing
    if (settings.kind == "image") != data.is_image:
        fitting_kinds = "image" if data.is_image else "standardise, robust or none"
        raise ConfigurationError(
            f"preprocessing.kind={settings.kind}: for the data {data.name!r} it must be {fitting_kinds}."
        )
    if settings.kind == "image":
        assert data.levels is not None
        if recipe.data.dequantise:
            raise ConfigurationError(
                f"data.dequantise={recipe.data.dequantise}: it is for columns of tables; images are always dequantised."
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
    integers = recipe.data.dequantise or []
    if settings.kind == "none":
        if integers:
            raise ConfigurationError(
                f"data.dequantise={integers}: it needs preprocessing.kind=standardise or robust, not none."
            )
        return None
    dequantised = indices_of(integers, data.event_shape[0], data.columns)
    scaling = "robust" if settings.kind == "robust" else "standard"
    return TablePreprocessing.fit(data.train, data.columns, scaling=scaling, dequantise=dequantised)


def check_columns(recipe: Recipe, data: Dataset, preprocessing: Bijection | None) -> list[str]:
    """What the user should know about the columns of a table before training, one line each.

    Raises:
        DataError: a column has too few different values for a density, and is not dequantised.
    """
    if data.is_image:
        return []
    rows = data.train[: recipe.data.limit]
    columns = columns_of(rows, data.columns)
    dequantised = indices_of(recipe.data.dequantise or [], len(columns), data.columns)
    refuse_columns_without_density(data.name, columns, dequantised, named=data.columns is not None)
    scaling = preprocessing if isinstance(preprocessing, TablePreprocessing) else None
    order = rows.double().sort(dim=0).values
    scaled = (order if scaling is None else scaling(order)).to(getattr(torch, recipe.dtype))
    return remarks(columns, dequantised, None if scaling is None else scaling.scaling, scaled.unbind(1))


def build_flow(recipe: Recipe, event_shape: tuple[int, ...], preprocessing: Bijection | None) -> Flow:
    """An untrained flow, whose initial weights are drawn from the seed of the recipe.

    Raises:
        ConfigurationError: an unknown architecture or option, or one that does not fit the data.
    """
    device = make_device(recipe.device)
    with _seeded(recipe.seed, [device] if device.type == "cuda" else []):
        flow = _construct(recipe, event_shape, preprocessing)
        return flow.to(device, getattr(torch, recipe.dtype))


@contextmanager
def _seeded(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Draw from this seed inside the block, and leave torch's own random state unchanged."""
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
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # refused below
            norms = recipe.architecture.norms.build()
            parts = {"norms": norms, "logdet": logdet, "preprocessing": preprocessing}
            accepted = {key: part for key, part in parts.items() if key in _parameters(name)}
            flow = ARCHITECTURES[name](event_shape, **accepted, **options)
    except ContraflowError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # a command or a file may give any value as an option
        raise ConfigurationError(
            f"architecture.options={options}: {name} cannot be built with them: {first_line(error)}"
        ) from error
    for parameter, value in flow.named_parameters():
        if not value.numel():
            raise ConfigurationError(f"architecture.options={options}: {name} would have an empty {parameter}.")
    return flow


def architecture_options(name: str) -> dict[str, Any]:
    """The options of an architecture that a recipe can set, with their defaults."""
    build = ARCHITECTURES[name].build
    preset = build.keywords if isinstance(build, partial) else {}
    others = ("event_shape", "logdet", "inverse", "norms", "preprocessing")
    parameters = {key: parameter for key, parameter in _parameters(name).items() if key not in others}
    return {key: preset.get(key, parameter.default) for key, parameter in parameters.items()}


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    build = ARCHITECTURES[name].build
    return inspect.signature(build.func if isinstance(build, partial) else build).parameters


def make_device(name: str) -> torch.device:
    """The device of this name, if it is available.

    Raises:
        ConfigurationError: the device is unknown or not available.
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
    """A random generator with this seed.

    Raises:
        ConfigurationError: the seed is negative, or beyond 63 bits.
    """
    check_seed(seed)
    return Generator(device).manual_seed(seed)


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Fail if more parameters than this are made: a damaged configuration may ask for a billion blocks."""
    counter = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if next(counter) > parameters:
            raise ValueError(f"it asks for more than the {parameters} tensors that the checkpoint holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Run:
    """A run read from disk: its recipe, its log, and its flow at the newest checkpoint.

    Attributes:
        flow: with the weights for evaluation.
        recipe: the recipe that it was trained with, including the device.
        columns: names of the columns of a table; ``None`` for other data.
        levels: number of levels of a pixel; ``None`` for data that are not images.
        step: number of training steps of the weights.
        path: the folder of the checkpoint.
        fingerprint: identifies the data; ``None`` in runs of early versions, which recorded none.
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
        """The folder of the run, or of the checkpoint where that was moved out of its run."""
        return self.path.parents[1] if self.path.parent.name == "checkpoints" else self.path

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the training log up to the step of the weights; empty where there is no log."""
        return [record for record in TrainingLog(self.folder).records() if record["step"] <= self.step]


def describe(recipe: Recipe, data: Dataset, preprocessing: Bijection | None) -> dict[str, Any]:
    """What a checkpoint holds besides its tensors."""
    fitted = preprocessing if isinstance(preprocessing, (ImagePreprocessing, TablePreprocessing)) else None
    return {
        "recipe": recipe.as_dict(),
        "event_shape": list(data.event_shape),
        "levels": data.levels,
        "columns": list(data.columns) if data.columns else None,
        "preprocessing": fitted.config() if fitted is not None else None,
        "data": Fingerprint.of(data).as_dict(),
    }


def recorded_fingerprint(checkpoint: Checkpoint) -> Fingerprint | None:
    """The fingerprint of the data that a run was trained on; ``None`` in runs of early versions, which recorded none.

    Raises:
        CheckpointError: the fingerprint in config.json is damaged.
    """
    values = checkpoint.config.get("data")
    try:
        return None if values is None else Fingerprint.from_dict(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: damaged fingerprint of the data: {first_line(error)}."
        ) from error


def load_run(run: str | Path, *, device: str | None = None, dtype: str | None = None, certified: bool = True) -> Run:
    """Load the flow of a run, or of one checkpoint, with the averaged weights.

    Args:
        run: the folder that training wrote, or one checkpoint in it.
        device: where to compute; the CPU by default.
        dtype: precision to compute in; that of the training by default.
        certified: scale layers above their bound down to it; otherwise norms are estimates, as in training.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    make_device(device or "cpu")
    checkpoint = load_checkpoint(Path(run))
    config = checkpoint.config
    try:
        recipe = Recipe.from_dict(config["recipe"])
        here = replace(recipe, device=device or "cpu")
        shape, columns, levels = (config[key] for key in ("event_shape", "columns", "levels"))
        if not (is_a(shape, list[int]) and is_a(columns, list[str] | None) and is_a(levels, int | None)):
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
