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
    """List the recipes that `contraflow train` takes.

    Args:
        json: print JSON.
    """
    about = {name: _summary(make) for name, make in RECIPES.items()}
    show("\n".join(f"{name:16s} {text}" for name, text in about.items()), about, json)


def architectures(json: bool = False) -> None:
    """List the architectures with their parameter counts at the shape they are named for.

    Args:
        json: print JSON.
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
    """Parameters at its own shape, on no memory; ``None`` where its optional dependency is missing."""
    try:
        with torch.device("meta"):
            return sum(one.numel() for one in architecture().parameters())
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
    """List data sets, fetch one (`data fetch mnist`), or check its files (`data check mnist`).

    Args:
        action: list, fetch or check.
        name: the data set to fetch or check.
        root: folder of the data sets; $CONTRAFLOW_DATA or ~/.cache/contraflow when not given.
        json: print JSON.
    """
    if action == "list":
        about = {key: {"kind": one.kind, "about": one.description} for key, one in DATASETS.items()}
        show("\n".join(f"{key:16s} {one['kind']:6s} {one['about']}" for key, one in about.items()), about, json)
        return
    if action not in ("fetch", "check") or name is None:
        raise ConfigurationError(
            f"data {action} {name or ''}: say `data list`, `data fetch NAME` or `data check NAME`."
        )
    if action == "fetch":
        paths = [str(path) for path in fetch(name, root)]
        show("\n".join(paths) or f"{name}: nothing to fetch, it needs no file.", paths, json)
        return
    statuses = check(name, root)
    text = "\n".join(f"{status}: {file}" for file, status in statuses) or f"{name}: needs no file."
    show(text, dict(statuses), json)


def _summary(make: Any) -> str:
    text = (inspect.getdoc(make.func if isinstance(make, partial) else make) or "").split("\n", 1)[0]
    return f"{make.args[0].replace('_', ' ')}: {text}" if isinstance(make, partial) else text
