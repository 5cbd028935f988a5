"""The table of commands, and the errors that leave them."""

from __future__ import annotations

import inspect
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contraflow.cli.catalogues import architectures, data, recipes
from contraflow.cli.certify import certify
from contraflow.cli.compare import compare
from contraflow.cli.evaluate import evaluate
from contraflow.cli.laboratory import refusal
from contraflow.cli.ood import ood
from contraflow.cli.quality import quality
from contraflow.cli.report import report
from contraflow.cli.sample import sample
from contraflow.cli.score import score
from contraflow.cli.train import train_command
from contraflow.errors import ConfigurationError, ContraflowError, first_line, unknown_name

#: Set it to anything to see the traceback of an error that nobody foresaw.
TRACEBACK_VARIABLE = "CONTRAFLOW_TRACEBACK"

#: Command → plain function; help comes from its types and docstring.
COMMANDS: dict[str, Callable[..., None]] = {
    "train": train_command,
    "evaluate": evaluate,
    "sample": sample,
    "score": score,
    "certify": certify,
    "ood": ood,
    "quality": quality,
    "report": report,
    "compare": compare,
    "recipes": recipes,
    "architectures": architectures,
    "data": data,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for an error, said in one line, or 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # a shell that has closed a stream (`>&-`) leaves None in its place
    sys.stdout, sys.stderr = (one or open(os.devnull, "w", encoding="utf-8") for one in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding has ± as \xb1
    if (refused := refusal()) is not None:
        print(f"contraflow: error: {refused}", file=sys.stderr)
        return 2
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # a reader that has left is met here, not when the interpreter ends
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left (`contraflow score … | head`): nothing to say, and nobody to say it to.
        _drop_output()
        return 0
    except Exception as error:
        if isinstance(error, OSError):
            _drop_output()
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        with suppress(OSError):  # standard error may be what is full
            print(f"contraflow: error: {explained(error)}", file=sys.stderr)
        return 2
    return 0


def explained(error: Exception) -> str:
    """What to tell a person of an error: what happened, and what to do about it.

    >>> explained(FileNotFoundError(2, "No such file or directory", "a.png"))
    'a.png: No such file or directory.'
    """
    if isinstance(error, ContraflowError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'standard output'}: {error.strerror}."
    if isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error):
        return f"not enough memory ({first_line(error)}). Take fewer rows at once, a smaller flow or less data."
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f", {Path(one.filename).name} line {one.lineno}" for one in place)
    return (
        f"{type(error).__name__}: {first_line(error)}{where}. Nobody foresaw this, so it is a fault of contraflow: "
        f"please report it, with what {TRACEBACK_VARIABLE}=1 prints."
    )


def _drop_output() -> None:
    """Let what is still to be written to standard output go nowhere, where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from contraflow import __version__

        print(__version__)
        return
    name, *rest = arguments
    if name == "completion":
        print(_completion(rest))
        return
    if name not in COMMANDS:
        raise unknown_name("command", name, [*COMMANDS, "completion"])
    if name == "train":
        train_command(rest)
        return
    parser = command_parser(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = vars(parse(parser, rest))
    COMMANDS[name](**values)


def command_parser(name: str) -> Any:
    """The parser of a command, made from its function's signature and docstring."""
    import docstring_parser
    from jsonargparse import ArgumentParser

    function = COMMANDS[name]
    parser = ArgumentParser(prog=f"contraflow {name}", description=_summary(function), exit_on_error=False)
    by_hand: set[str] = set()
    if name == "data":
        parser.add_argument("action", nargs="?", default="list", help="list, fetch or check")
        parser.add_argument("name", nargs="?", default=None, help="the data set to fetch or check")
        by_hand = {"action", "name"}
    helps = {one.arg_name: one.description for one in docstring_parser.parse(inspect.getdoc(function) or "").params}
    switches = [one.name for one in inspect.signature(function).parameters.values() if one.default is False]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*by_hand, *switches})
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true", help=helps[switch])
    return parser


def parse(parser: Any, arguments: list[str]) -> Any:
    """Parsed arguments.

    Raises:
        ConfigurationError: they do not fit; with the nearest option where one is misspelt.
    """
    from argparse import ArgumentError

    known = [option for action in parser._actions for option in action.option_strings]
    arguments = [_underscored(argument) for argument in arguments]
    for argument in arguments:
        option = argument.split("=", 1)[0]
        if option.startswith("--") and option not in known and not option.startswith("--architecture.options."):
            raise ConfigurationError(f"{unknown_name('option', option, known)} See: {parser.prog} --help")
    try:
        return parser.parse_args(arguments)
    except (ArgumentError, UnicodeError) as error:
        # letters that the encoding of the locale lacks come as surrogates, or stand in a file of --config
        foreign = isinstance(error, UnicodeError) or "surrogates" in str(error)
        remedy = "Set the environment variable PYTHONUTF8=1." if foreign else f"See: {parser.prog} --help"
        raise ConfigurationError(f"{error} {remedy}") from None


def _underscored(argument: str) -> str:
    """--batch-size is --batch_size."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _overview() -> str:
    lines = [f"  {name:15s}{_summary(function)}" for name, function in COMMANDS.items()]
    return "\n".join(
        [
            "usage: contraflow COMMAND …",
            "",
            "log p(x), samples and a classifier from one invertible network.",
            "",
            *lines,
            '  completion     Shell completion: eval "$(contraflow completion bash)"',
            "",
            "Begin with:  contraflow train digits --out run",
            "Help:        contraflow COMMAND --help",
        ]
    )


def _summary(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def _completion(arguments: list[str]) -> str:
    """A completion script, from the parsers themselves."""
    import argparse

    import shtab

    shells = ("bash", "zsh", "tcsh")
    if len(arguments) != 1 or arguments[0] not in shells:
        raise ConfigurationError(f"completion {' '.join(arguments)}: give one shell of {', '.join(shells)}.")
    from contraflow.cli.train import train_parser
    from contraflow.runs import RECIPES

    parser = argparse.ArgumentParser(prog="contraflow")
    commands = parser.add_subparsers()
    for name in COMMANDS:
        source = train_parser(RECIPES["digits"]()) if name == "train" else command_parser(name)
        command = commands.add_parser(name, help=_summary(COMMANDS[name]))
        for action in source._actions:
            if action.option_strings and action.option_strings != ["-h", "--help"]:
                command.add_argument(*action.option_strings, choices=action.choices)
        if name == "train":
            command.add_argument("recipe", choices=list(RECIPES))
        elif name in ("evaluate", "sample", "score", "certify", "ood", "quality", "report"):
            command.add_argument("run").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell=arguments[0])
