"""`contraflow train`."""

from __future__ import annotations

import argparse
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.parsing import parse
from contraflow.errors import ConfigurationError, DataError, unknown_name
from contraflow.runs import RECIPES, Recipe, run_recipe, with_architecture
from contraflow.runs.choices import CHOICES, Choice
from contraflow.training import load_checkpoint

_USAGE = "contraflow train RECIPE|FILE --out RUN [key=value …]   or   contraflow train --resume RUN [key=value …]"
_FILES = (".yaml", ".yml", ".toml", ".json")


def train_command(arguments: list[str]) -> None:
    """Train a flow, score it on the test set and draw samples.

    RECIPE is a name of `contraflow recipes`; FILE a YAML, TOML or JSON file with any of the keys below (its key
    `recipe` names the recipe it starts from). Settings follow as key=value, for instance training.steps=500; with
    architecture.name=NAME another flow is trained, at its own learning rate.
    Ctrl-C saves; --resume goes on exactly where a run stood.
    """
    recipe, values = parse_training(arguments)
    with ProgressBar() as bar:
        outcome = run_recipe(
            recipe,
            Path(values.out or values.resume),
            resume=values.resume is not None,
            force=values.force,
            tensorboard=values.tensorboard,
            watcher=bar,
        )
    classified = outcome.classification
    lines = [f"test {outcome.report}", *([] if classified is None else [f"test {classified}"])]
    estimated = outcome.by_estimates
    if estimated is not None and estimated.differs:
        lines.append(f"test {estimated}")
    found = {
        **outcome.report.as_dict(),
        "by_estimates": None if estimated is None else estimated.as_dict(),
        "samples": str(outcome.picture),
    }
    if classified is not None:
        found["classification"] = classified.as_dict()
    show("\n".join([*lines, f"samples {outcome.picture}"]), found, values.json)


def parse_training(arguments: list[str]) -> tuple[Recipe, Any]:
    """The recipe that the words of `contraflow train` say, and the other options.

    Raises:
        ConfigurationError: the words do not fit.
        DataError: there is no such file.
    """
    arguments = [f"--{one}" if "=" in one and not one.startswith("-") else one for one in arguments]
    source = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    resumed = _option(arguments, "--resume")
    if source is not None and source.endswith(_FILES):
        base, text = _from_file(source)
        arguments = ["--config", text, *arguments]
    elif resumed is not None:
        base = Recipe.from_dict(load_checkpoint(Path(resumed)).config.get("recipe"))
    else:
        name = source or "digits"
        if name not in RECIPES:
            raise unknown_name("recipe", name, RECIPES)
        base = RECIPES[name]()
    if resumed is None and (architecture := _option(arguments, "--architecture.name")) is not None:
        base = with_architecture(base, architecture)
    values = parse(train_parser(base), arguments)
    if source is None and resumed is None:
        raise ConfigurationError(f"no recipe given. usage: {_USAGE}; `contraflow recipes` lists them.")
    if (values.out is None) == (values.resume is None):
        raise ConfigurationError(f"give either --out RUN for a new run or --resume RUN. usage: {_USAGE}")
    if resumed is not None and source is not None:
        raise ConfigurationError(f"--resume takes the recipe from {resumed}; leave {source} out.")
    given = values.as_dict()
    return base.changed({key: given[key] for key in vars(base) if key in given}), values


def train_parser(base: Recipe) -> Any:
    """The parser of `train`, its defaults those of a recipe."""
    from jsonargparse import ArgumentParser

    description = f"{train_command.__doc__}\nThe defaults below are those of the recipe {base.recipe!r}."
    parser = ArgumentParser(prog="contraflow train", usage=_USAGE, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML, TOML or JSON file; the same as FILE")
    parser.add_argument("--out", type=str, default=None, help="folder to write the run to")
    parser.add_argument("--resume", type=str, default=None, help="folder of a run to go on with")
    parser.add_argument("--force", action="store_true", help="delete an earlier run in --out first")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_settings(parser, base, "")
    return parser


def _add_settings(parser: Any, settings: Any, where: str) -> None:
    """An option for every key of a recipe or a part of it; those of choices have no default, as not all go together."""
    hints = get_type_hints(type(settings))
    parts = {name for name, hint in hints.items() if hint in CHOICES or is_dataclass(hint)}
    parser.add_class_arguments(type(settings), where.rstrip(".") or None, as_group=bool(where), skip=parts)
    parser.set_defaults({f"{where}{name}": getattr(settings, name) for name in hints.keys() - parts})
    for name in (name for name in hints if name in parts):
        path, value = f"{where}{name}", getattr(settings, name)
        if hints[name] in CHOICES:
            _add_choice(parser, CHOICES[hints[name]], value, path)
        else:
            _add_settings(parser, value, f"{path}.")


def _add_choice(parser: Any, choice: Choice, value: Any, path: str) -> None:
    now = ", ".join(f"{key}={one}" for key, one in choice.as_keys(value).items())
    group = parser.add_argument_group(f"{path}, in this recipe {now}")
    for key, uses in choice.keys().items():
        takers = " and ".join(one.taker for one in uses if one.taker)
        about = f"{uses[0].help} ({takers})" if takers else uses[0].help
        group.add_argument(f"--{path}.{key}", type=uses[0].type, default=argparse.SUPPRESS, help=about)


def _option(arguments: list[str], name: str) -> str | None:
    """The value of an option before parsing proper: it decides what the defaults are."""
    for index, one in enumerate(arguments):
        if one.startswith(f"{name}="):
            return one.split("=", 1)[1]
        if one == name and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _from_file(source: str) -> tuple[Recipe, str]:
    """The recipe that a file starts from, and its settings as YAML in ASCII, after a check of its keys.

    A parser that is given the file itself would read it in the encoding of the locale.
    """
    import yaml

    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file.")
    values = _read(path)
    name = str(values.get("recipe", "digits"))
    if name not in RECIPES:
        raise unknown_name(f"recipe in {source}:", name, RECIPES)
    base = RECIPES[name]()
    architecture = values.get("architecture")
    if isinstance(architecture, dict) and "name" in architecture:
        base = with_architecture(base, str(architecture["name"]))
    _check_keys(values, base, source, "")
    return base, yaml.safe_dump(values, sort_keys=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".toml":
            import sys

            if sys.version_info >= (3, 11):
                import tomllib
            else:
                import tomli as tomllib
            values = tomllib.loads(text)
        else:
            from jsonargparse import get_loader

            values = get_loader("yaml")(text)
    except (OSError, ValueError, yaml_error()) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected keys and values, got {type(values).__name__}.")
    return values


def yaml_error() -> type[Exception]:
    """The error of the YAML reader, imported only when needed."""
    import yaml

    return yaml.YAMLError


def _check_keys(values: dict[str, Any], settings: Any, source: str, where: str) -> None:
    hints = get_type_hints(type(settings))
    for key, value in values.items():
        if where == "" and key in ("out", "resume", "force", "tensorboard", "json", "config"):
            continue
        path, hint = f"{where}{key}", hints.get(key)
        if hint is None:
            raise unknown_name(f"key in {source}:", path, [f"{where}{one}" for one in hints])
        if not (hint in CHOICES or is_dataclass(hint) or get_origin(hint) is dict):
            continue
        if not isinstance(value, dict):
            raise ConfigurationError(f"key in {source}: {path}={value!r}, where it takes keys and values itself.")
        if hint in CHOICES:
            known = CHOICES[hint].keys()
            for one in value.keys() - known.keys():
                raise unknown_name(f"key in {source}:", f"{path}.{one}", [f"{path}.{other}" for other in known])
        elif is_dataclass(hint):
            _check_keys(value, getattr(settings, key), source, f"{path}.")
