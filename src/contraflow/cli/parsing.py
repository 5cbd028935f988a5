"""From words to arguments: a row of the table of commands, its parser, and errors that say what was meant."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, get_origin

from contraflow.errors import ConfigurationError, unknown_name


class Paths(Enum):
    """What completes an argument that is a path."""

    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True)
class Command:
    """A row of the table of commands.

    Args:
        function: does it; help comes from its types and its docstring.
        positional: the arguments given without dashes, in order, and what completes each: names, or paths.
        parser: of a function that takes the words as they stand, since its defaults depend on them.
    """

    function: Callable[..., None]
    positional: Mapping[str, Iterable[str] | Paths] = field(default_factory=dict)
    parser: Callable[[], Any] | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def make_parser(self, name: str) -> Any:
        """The parser of the command under its name."""
        return self._parser_of_signature(name) if self.parser is None else self.parser()

    def run(self, name: str, words: list[str]) -> None:
        """Do it.

        Raises:
            ConfigurationError: the words do not fit.
        """
        if self.parser is not None:
            self.function(words)
            return
        self.function(**vars(parse(self._parser_of_signature(name), words)))

    def _parser_of_signature(self, name: str) -> Any:
        import docstring_parser
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(prog=f"contraflow {name}", description=self.summary, exit_on_error=False)
        documented = docstring_parser.parse(inspect.getdoc(self.function) or "").params
        helps = {one.arg_name: one.description for one in documented}
        parameters = inspect.signature(self.function).parameters
        switches = [key for key, one in parameters.items() if one.default is False]
        # required ones are positional anyway
        optional = [key for key in self.positional if parameters[key].default is not inspect.Parameter.empty]
        for key in optional:
            parser.add_argument(key, nargs="?", default=parameters[key].default, help=helps[key])
        parser.add_function_arguments(self.function, as_group=False, as_positional=True, skip={*optional, *switches})
        for key in switches:
            parser.add_argument(f"--{key}", action="store_true", help=helps[key])
        return parser


def parse(parser: Any, words: list[str]) -> Any:
    """Parsed arguments.

    Raises:
        ConfigurationError: they do not fit; with the nearest option where one is misspelt.
    """
    from argparse import ArgumentError

    known = [option for action in parser._actions for option in action.option_strings]
    of_dicts = tuple(
        f"{option}."
        for action in parser._actions
        for option in action.option_strings
        if get_origin(getattr(action, "_typehint", None)) is dict
    )
    words = [_underscored(word) for word in words]
    for word in words:
        option = word.split("=", 1)[0]
        if option.startswith("--") and option not in known and not option.startswith(of_dicts):
            raise ConfigurationError(f"{unknown_name('option', option, known)} See: {parser.prog} --help")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parser.parse_args(words)
    except (ArgumentError, UnicodeError) as error:
        # letters that the encoding of the locale lacks come as surrogates, or stand in a file of --config
        foreign = isinstance(error, UnicodeError) or "surrogates" in str(error)
        remedy = "Set the environment variable PYTHONUTF8=1." if foreign else f"See: {parser.prog} --help"
        raise ConfigurationError(f"{error} {remedy}") from None


def _underscored(word: str) -> str:
    """--batch-size is --batch_size."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
