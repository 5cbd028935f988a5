"""`contraflow recipes`, `contraflow architectures`, `contraflow data`."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, Literal

import torch

from contraflow.architectures import ARCHITECTURES, Architecture
from contraflow.cli.console import show
from contraflow.data import DATASETS, check, fetch
from contraflow.errors import ConfigurationError
from contraflow.runs import RECIPES


def recipes(json: bool = False) -> None:
    """List the recipes: complete settings of data, flow and training, by name.

    Example: contraflow train digits --out run

    Args:
        json: print the list as JSON.
    """
    about = {name: _summary(make) for name, make in RECIPES.items()}
    width = max(map(len, about))
    show("\n".join(f"{name:{width}s}  {text}" for name, text in about.items()), about, json)


def architectures(json: bool = False) -> None:
    """List the architectures, each with its number of parameters for one shape of data.

    Example: contraflow train digits architecture.name=glow --out run

    Args:
        json: print the list as JSON.
    """
    rows: list[dict[str, Any]] = []
    for name, architecture in ARCHITECTURES.items():
        shape = list(architecture.event_shape)
        rows.append(
            {"name": name, "parameters": _count(architecture), "event_shape": shape, "about": architecture.about}
        )
    lines = [f"{'name':28s} {'parameters':>12s}  {'shape':12s} about"]
    for row in rows:
        shape_text = "×".join(str(size) for size in row["event_shape"])
        count = "not installed" if row["parameters"] is None else f"{row['parameters']:,d}"
        lines.append(f"{row['name']:28s} {count:>12s}  {shape_text:12s} {row['about']}")
    show("\n".join(lines), rows, json)


def _count(architecture: Architecture) -> int | None:
    """Its number of parameters, counted without allocating them; ``None`` where its optional dependency is missing."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in architecture().parameters())
    except ConfigurationError:
        if architecture.extra is None:
            raise
        return None


def data(
    action: Literal["list", "fetch", "check"] = "list",
    name: str | None = None,
    root: str | None = None,
    json: bool = False,
) -> None:
    """List the named data sets, download one, or check its files.

    Example: contraflow data fetch mnist

    Args:
        action: list, fetch (download from the official address) or check (compare the files with their checksums).
        name: the data set to fetch or check.
        root: the folder that holds the data sets; by default $CONTRAFLOW_DATA, else ~/.cache/contraflow.
        json: print the result as JSON.
    """
    if action == "list":
        about = {key: {"kind": entry.kind, "about": entry.description} for key, entry in DATASETS.items()}
        show("\n".join(f"{key:16s} {row['kind']:6s} {row['about']}" for key, row in about.items()), about, json)
        return
    if action not in ("fetch", "check") or name is None:
        raise ConfigurationError(
            f"data {action} {name or ''}: expected `data list`, `data fetch NAME` or `data check NAME`."
        )
    if action == "fetch":
        paths = [str(path) for path in fetch(name, root)]
        show("\n".join(paths) or f"{name}: it needs no file.", paths, json)
        return
    statuses = check(name, root)
    text = "\n".join(f"{status}: {file}" for file, status in statuses) or f"{name}: it needs no file."
    show(text, dict(statuses), json)


def _summary(make: Any) -> str:
    text = (inspect.getdoc(make.func if isinstance(make, partial) else make) or "").split("\n", 1)[0]
    return f"{make.args[0].replace('_', ' ')}: {text}" if isinstance(make, partial) else text
