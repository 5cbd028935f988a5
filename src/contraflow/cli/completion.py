"""The script with which a shell completes commands, options and names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from contraflow.cli.parsing import Command, Paths
from contraflow.errors import ConfigurationError

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(commands: Mapping[str, Command], shell: str) -> str:
    """The completion script for a shell, made from the parsers.

    Raises:
        ConfigurationError: an unknown shell.
    """
    import shtab

    if shell not in SHELLS:
        raise ConfigurationError(f"completion {shell}: expected one of the shells {', '.join(SHELLS)}.")
    paths = {Paths.FILE: shtab.FILE, Paths.FOLDER: shtab.DIRECTORY}
    program = argparse.ArgumentParser(prog="contraflow")
    parsers = program.add_subparsers()
    for name, row in commands.items():
        parser = parsers.add_parser(name, help=row.summary)
        for action in row.make_parser(name)._actions:
            if action.option_strings and action.option_strings != ["-h", "--help"]:
                parser.add_argument(*action.option_strings, choices=action.choices)
        for argument, completion in row.positional.items():
            if isinstance(completion, Paths):
                parser.add_argument(argument).complete = paths[completion]  # type: ignore[attr-defined]
            else:
                parser.add_argument(argument, choices=list(completion))
    return shtab.complete(program, shell=shell)
