"""The table of named data sets, with functions that load, check and fetch one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from contraflow.data.dataset import Dataset
from contraflow.data.download import download
from contraflow.data.entry import Entry
from contraflow.data.known_files import KnownFile, file_md5
from contraflow.data.path_dataset import ARRAY_SUFFIXES, TABLE_SUFFIXES, is_folder, load_path
from contraflow.data.sets import (
    bsds300,
    celeba64,
    celeba_hq,
    cifar10,
    digits,
    fashion_mnist,
    gas,
    hepmass,
    miniboone,
    mnist,
    power,
    small_imagenet,
    svhn,
    toy_densities,
)
from contraflow.errors import ConfigurationError, DataError, unknown_name

ROOT_VARIABLE = "CONTRAFLOW_DATA"

DATASETS: dict[str, Entry] = {
    "digits": digits.ENTRY,
    "mnist": mnist.ENTRY,
    "fashion_mnist": fashion_mnist.ENTRY,
    "cifar10": cifar10.ENTRY,
    "svhn": svhn.ENTRY,
    "imagenet32": small_imagenet.ENTRY_32,
    "imagenet64": small_imagenet.ENTRY_64,
    "celeba64": celeba64.ENTRY,
    "celebahq256": celeba_hq.ENTRY,
    "power": power.ENTRY,
    "gas": gas.ENTRY,
    "hepmass": hepmass.ENTRY,
    "miniboone": miniboone.ENTRY,
    "bsds300": bsds300.ENTRY,
    **toy_densities.ENTRIES,
}
"""Name to entry."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data sets: `root`, else ``$CONTRAFLOW_DATA``, else ``~/.cache/contraflow``.

    >>> data_root("somewhere").name
    'somewhere'
    """
    if root is not None:
        return Path(root).expanduser()
    if from_environment := os.environ.get(ROOT_VARIABLE):
        return Path(from_environment).expanduser()
    return Path.home() / ".cache" / "contraflow"


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    size: int | None = None,
    grey: bool = False,
) -> Dataset:
    """A named data set, or the user's own file or folder; a name wins over a folder of that name (write ``./name``).

    Args:
        name_or_path: a name in `DATASETS`, or a path: .csv, .parquet, .npy, .npz, or a folder of images.
        root: folder of the named data sets; else ``$CONTRAFLOW_DATA``, else ``~/.cache/contraflow``.
        seed: of the draws of 2-D sets and of the split of a path; published sets have one fixed split.
        columns: which columns of a table, in which order.
        size, grey: for a folder of images, see `read_image_folder`.

    Raises:
        ConfigurationError: an unknown name, or columns, size or grey for data that do not take them.
        DataError: files are absent, broken or not the whole of the published ones; absent ones are listed with every
            place where they were looked for.

    >>> load_dataset("checkerboard").train.shape
    torch.Size([50000, 2])
    """
    if path := own_path(name_or_path):
        if columns is not None and path.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigurationError(f"columns= is for tables ({', '.join(TABLE_SUFFIXES)}), not for {path}.")
        if (size is not None or grey) and not is_folder(path):
            raise ConfigurationError(f"size= and grey= are for folders of images, not for {path}.")
        return load_path(path, seed=seed, columns=columns, size=size, grey=grey)
    name = os.fspath(name_or_path)
    if columns is not None or size is not None or grey:
        raise ConfigurationError(f"columns=, size= and grey= are for your own files, not for the data set {name!r}.")
    return DATASETS[name].read(_find(name, data_root(root)), seed)


def check(name: str, root: str | os.PathLike[str] | None = None) -> list[tuple[str, str]]:
    """File and status of a named data set: ``ok``, ``absent`` and where else it may lie, or what its md5 sum is.

    Of several forms, those with a file present are listed; where there is none, the one that `fetch` gets. Where the
    published number of rows is known, a complete form is read, and the last line says whether it has them.

    Raises:
        ConfigurationError: an unknown name.
    """
    entry, folder = _entry(name), data_root(root)
    present = [form for form in entry.forms if any(file.find(folder) for file in form)]
    forms = present or [entry.fetchable or form for form in entry.forms[:1]]
    files = dict.fromkeys(file for form in forms for file in form)
    statuses = [_status(file, folder) for file in files]
    if entry.shape is not None and (paths := _complete(name, folder)):
        statuses.append((name, _content_status(entry, paths)))
    return statuses


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Download the official files of a named data set; complete files that are already present are kept.

    Raises:
        ConfigurationError: an unknown name.
        DataError: no official address, no network, or a wrong md5 sum.
        OutputError: the folder cannot be written.
    """
    entry, folder = _entry(name), data_root(root)
    if not entry.forms:
        return []
    if entry.fetchable is None:
        places = " or ".join(" and ".join(str(file.places(folder)[0]) for file in form) for form in entry.forms)
        raise DataError(
            f"{name}, {entry.description}: has no address to fetch it from. Put these files there by hand: {places}."
        )
    return [download(file, folder) for file in entry.fetchable]


def _entry(name: str) -> Entry:
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


def own_path(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The path of the user's own file or folder; ``None`` for a name in `DATASETS`, which wins.

    Raises:
        ConfigurationError: a word that is neither a name in `DATASETS` nor a known suffix nor an existing path.
        DataError: ~ of a user who does not exist.
    """
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return None
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name}: {error} Write the full path.") from error
    known = path.suffix.lower() in (*TABLE_SUFFIXES, *ARRAY_SUFFIXES)
    if isinstance(name_or_path, str) and len(path.parts) == 1 and not known and not os.path.exists(path):
        raise unknown_name("data set", name, DATASETS)
    return path


def _find(name: str, folder: Path) -> list[Path]:
    """The files of the first form that is complete; none where no file is needed."""
    paths = _complete(name, folder)
    if not paths and DATASETS[name].forms:
        raise _absent(name, folder)
    return paths


def _complete(name: str, folder: Path) -> list[Path]:
    """The files of the first form that is complete, or none."""
    for form in DATASETS[name].forms:
        paths = [path for file in form if (path := file.find(folder)) is not None]
        if len(paths) == len(form):
            return paths
    return []


def _absent(name: str, folder: Path) -> DataError:
    choices = []
    for form in DATASETS[name].forms:
        files = [f"    {' or '.join(map(str, file.places(folder)))}" for file in form]
        choices.append("\n".join(files))
    remedy = (
        f"Run `contraflow data fetch {name}`, or"
        if DATASETS[name].fetchable
        else "There is no address to fetch it from:"
    )
    return DataError(
        f"data set {name!r}: files not found below {folder}. Looked for\n"
        + "\n  or, instead of all of those,\n".join(choices)
        + f"\n{remedy} put the files there by hand, or name their folder with root= or {ROOT_VARIABLE}."
    )


def _status(file: KnownFile, folder: Path) -> tuple[str, str]:
    path = file.find(folder)
    if path is None:
        first, *others = map(str, file.places(folder))
        return first, f"absent, and not at {' or '.join(others)} either" if others else "absent"
    if file.md5 is None or path.name != file.name:
        return str(path), "present; no published md5 sum to compare with"
    md5 = file_md5(path)
    return str(path), "ok" if md5 == file.md5 else f"md5 is {md5}, expected {file.md5}; fetch it again"


def _content_status(entry: Entry, paths: Sequence[Path]) -> str:
    try:
        data = entry.read(paths, 0)
    except DataError as error:
        return str(error)
    rows = f"ok, {len(data.train):,} train, {len(data.validation):,} validation and {len(data.test):,} test rows"
    if entry.gaussian is None:
        return rows
    return f"{rows}; a Gaussian scores {_gaussian_score(data):.2f} nats a test row, published {entry.gaussian:.2f}"


def _gaussian_score(data: Dataset) -> float:
    """Mean log-density in nats of the test rows under a Gaussian with the mean and covariance of the train rows."""
    train, test = data.train.double(), data.test.double()
    return torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T)).log_prob(test).mean().item()
