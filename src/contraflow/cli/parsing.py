"""A row of the table of commands, the parser that its function's signature and docstring give, and parse errors."""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, get_origin

from contraflow.errors import ConfigurationError, unknown_name


class Paths(Enum):
    """What a shell completes for an argument that is a path."""

    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True)
class Command:
    """A row of the table of commands.

    Args:
        function: carries out the command; its help comes from the types and the docstring.
        positional: the positional arguments in order, and what a shell completes for each: names, or paths.
        parser: the parser of a function that takes unparsed words, since its defaults depend on them.
    """

    function: Callable[..., None]
    positional: Mapping[str, Iterable[str] | Paths] = field(default_factory=dict)
    parser: Callable[[], Any] | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring of the function."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def make_parser(self, name: str) -> Any:
        """The parser of the command."""
        return self._parser_of_signature(name) if self.parser is None else self.parser()

    def run(self, name: str, words: list[str]) -> None:
        """Carry out the command.

        Raises:
            ConfigurationError: the words are not valid arguments.
        """
        if self.parser is not None:
            self.function(words)
            return
        self.function(**vars(parse(self._parser_of_signature(name), words)))

    def _parser_of_signature(self, name: str) -> Any:
        import docstring_parser
        from jsonargparse import ArgumentParser

        documented = docstring_parser.parse(inspect.getdoc(self.function) or "")
        parser = ArgumentParser(
            prog=f"contraflow {name}",
            description=documented.description,
            exit_on_error=False,
            formatter_class=help_formatter(),
        )
        helps = {parameter.arg_name: parameter.description for parameter in documented.params}
        parameters = inspect.signature(self.function).parameters
        switches = [key for key, parameter in parameters.items() if parameter.default is False]
        # arguments without a default are positional in any case
        optional = [key for key in self.positional if parameters[key].default is not inspect.Parameter.empty]
        for key in optional:
            parser.add_argument(key, nargs="?", default=parameters[key].default, help=helps[key])
        parser.add_function_arguments(self.function, as_group=False, as_positional=True, skip={*optional, *switches})
        for key in switches:
            parser.add_argument(f"--{key}", action="store_true", help=helps[key])
        return parser


def help_formatter() -> type[Any]:
    """The class that formats help: paragraphs stay apart, and only defaults that tell something are shown."""
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            text = action.help or ""
            if any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS)) or action.default in (
                "",
                {},
            ):
                return text
            return f"{text} (default: %(default)s)"

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            paragraphs = text.split("\n\n")
            return "\n\n".join(super(Formatter, self)._fill_text(paragraph, width, indent) for paragraph in paragraphs)

    return Formatter


def parse(parser: Any, words: list[str]) -> Any:
    """Parse the arguments of a command.

    Raises:
        ConfigurationError: they are not valid; where an option is misspelt, the message names the nearest one.
    """
    from argparse import ArgumentError

    known = [option for action in parser._actions for option in action.option_strings]
    dict_options = tuple(
        f"{option}."
        for action in parser._actions
        for option in action.option_strings
        if get_origin(getattr(action, "_typehint", None)) is dict
    )
    words = [_underscored(word) for word in words]
    for word in words:
        option = word.split("=", 1)[0]
        if option.startswith("--") and option not in known and not option.startswith(dict_options):
            raise ConfigurationError(f"{unknown_name('option', option, known)} See: {parser.prog} --help")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parser.parse_args(words)
    except (ArgumentError, UnicodeError) as error:
        # characters outside the encoding of the locale arrive as surrogates, or stand in a file of --config
        foreign = isinstance(error, UnicodeError) or "surrogates" in str(error)
        remedy = "Set the environment variable PYTHONUTF8=1." if foreign else f"See: {parser.prog} --help"
        raise ConfigurationError(f"{error} {remedy}") from None


def _underscored(word: str) -> str:
    """--batch-size means --batch_size."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
