"""`contraflow train`."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from contraflow.cli.console import ProgressBar, show
from contraflow.cli.parsing import help_formatter, parse
from contraflow.errors import ConfigurationError, DataError, unknown_name
from contraflow.runs import RECIPES, Recipe, run_recipe, with_architecture
from contraflow.runs.choices import CHOICES, Choice
from contraflow.training import load_checkpoint

_USAGE = "contraflow train RECIPE|FILE --out RUN [key=value …]   or   contraflow train --resume RUN [key=value …]"
_FILES = (".yaml", ".yml", ".toml", ".json")


def train_command(arguments: list[str]) -> None:
    """Train a flow, score it on test rows, and draw samples.

    A recipe holds all settings; `contraflow recipes` lists them. Change a setting with key=value, for instance
    training.steps=500; the keys are listed below. With architecture.name=NAME another flow is trained, with its own
    learning rate. Instead of a recipe, give a YAML, TOML or JSON file with any of the keys below; its key `recipe`
    names the recipe that it starts from.

    Ctrl-C writes a checkpoint and stops; --resume continues exactly where a run stopped.

    Examples: contraflow train digits --out run; contraflow train table data.name=FILE.csv --out run; contraflow train
    --resume run training.steps=3000
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
    result = {
        **outcome.report.as_dict(),
        "by_estimates": None if estimated is None else estimated.as_dict(),
        "samples": str(outcome.picture),
    }
    if classified is not None:
        result["classification"] = classified.as_dict()
    show("\n".join([*lines, f"samples {outcome.picture}"]), result, values.json)


def parse_training(arguments: list[str]) -> tuple[Recipe, Any]:
    """The recipe that the words of `contraflow train` describe, and the other options.

    Raises:
        ConfigurationError: the words are not valid arguments.
        DataError: the file does not exist.
    """
    arguments = [f"--{word}" if "=" in word and not word.startswith("-") else word for word in arguments]
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
        raise ConfigurationError(f"--resume takes the recipe from {resumed}; leave out {source}.")
    parsed = values.as_dict()
    return base.changed({key: parsed[key] for key in vars(base) if key in parsed}), values


def train_parser(base: Recipe) -> Any:
    """The parser of `train`, with the settings of a recipe as defaults."""
    from jsonargparse import ArgumentParser

    description = f"{inspect.getdoc(train_command)}\n\nThe defaults below are those of the recipe {base.recipe!r}."
    parser = ArgumentParser(
        prog="contraflow train",
        usage=_USAGE,
        description=description,
        exit_on_error=False,
        formatter_class=help_formatter(),
    )
    parser.add_argument("--config", action="config", help="a YAML, TOML or JSON file with settings; the same as FILE")
    parser.add_argument("--out", type=str, default=None, help="the folder to write the run to")
    parser.add_argument("--resume", type=str, default=None, help="the folder of a run to continue")
    parser.add_argument("--force", action="store_true", help="delete an earlier run in --out first")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_settings(parser, base, "")
    return parser


def _add_settings(parser: Any, settings: Any, where: str) -> None:
    """Add an option for every key; the keys of a choice have no default, since only some of them apply."""
    hints = get_type_hints(type(settings))
    parts = {name for name, hint in hints.items() if hint in CHOICES or is_dataclass(hint)}
    parser.add_class_arguments(type(settings), where.rstrip(".") or None, as_group=bool(where), skip=parts)
    if where:
        parser._option_string_actions[f"--{where.rstrip('.')}"].help = argparse.SUPPRESS  # a file for this part alone
    parser.set_defaults({f"{where}{name}": getattr(settings, name) for name in hints.keys() - parts})
    for name in (name for name in hints if name in parts):
        path, value = f"{where}{name}", getattr(settings, name)
        if hints[name] in CHOICES:
            _add_choice(parser, CHOICES[hints[name]], value, path)
        else:
            _add_settings(parser, value, f"{path}.")


def _add_choice(parser: Any, choice: Choice, value: Any, path: str) -> None:
    settings = ", ".join(f"{key}={setting}" for key, setting in choice.as_keys(value).items())
    group = parser.add_argument_group(f"{path}, in this recipe {settings}")
    for key, definitions in choice.keys().items():
        tags = [definition.owner.split("=") for definition in definitions if definition.owner]
        about = definitions[0].help
        if tags:
            about = f"with {tags[0][0]}={', '.join(name for _, name in tags)}: {about}"
        group.add_argument(f"--{path}.{key}", type=definitions[0].type, default=argparse.SUPPRESS, help=about)


def _option(arguments: list[str], name: str) -> str | None:
    """The value of an option that decides the defaults, before the other arguments are parsed."""
    for index, word in enumerate(arguments):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _from_file(source: str) -> tuple[Recipe, str]:
    """The recipe that a file starts from, and its settings as YAML in ASCII, after a check of its keys.

    The parser would read the file itself in the encoding of the locale.
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
    """The error class of the YAML reader, imported only when needed."""
    import yaml

    return yaml.YAMLError


def _check_keys(values: dict[str, Any], settings: Any, source: str, where: str) -> None:
    hints = get_type_hints(type(settings))
    for key, value in values.items():
        if where == "" and key in ("out", "resume", "force", "tensorboard", "json", "config"):
            continue
        path, hint = f"{where}{key}", hints.get(key)
        if hint is None:
            raise unknown_name(f"key in {source}:", path, [f"{where}{name}" for name in hints])
        if not (hint in CHOICES or is_dataclass(hint) or get_origin(hint) is dict):
            continue
        if not isinstance(value, dict):
            raise ConfigurationError(f"key in {source}: {path}={value!r}: expected keys and values.")
        if hint in CHOICES:
            known = CHOICES[hint].keys()
            for inner in value.keys() - known.keys():
                raise unknown_name(f"key in {source}:", f"{path}.{inner}", [f"{path}.{name}" for name in known])
        elif is_dataclass(hint):
            _check_keys(value, getattr(settings, key), source, f"{path}.")
