"""The script by which a shell completes commands, options and names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from contraflow.cli.parsing import Command, Paths
from contraflow.errors import ConfigurationError

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(commands: Mapping[str, Command], shell: str) -> str:
    """The script for a shell, from the parsers themselves.

    Raises:
        ConfigurationError: not one of the shells.
    """
    import shtab

    if shell not in SHELLS:
        raise ConfigurationError(f"completion {shell}: give one shell of {', '.join(SHELLS)}.")
    paths = {Paths.FILE: shtab.FILE, Paths.FOLDER: shtab.DIRECTORY}
    whole = argparse.ArgumentParser(prog="contraflow")
    parsers = whole.add_subparsers()
    for name, row in commands.items():
        parser = parsers.add_parser(name, help=row.summary)
        for action in row.make_parser(name)._actions:
            if action.option_strings and action.option_strings != ["-h", "--help"]:
                parser.add_argument(*action.option_strings, choices=action.choices)
        for argument, completing in row.positional.items():
            if isinstance(completing, Paths):
                parser.add_argument(argument).complete = paths[completing]  # type: ignore[attr-defined]
            else:
                parser.add_argument(argument, choices=list(completing))
    return shtab.complete(whole, shell=shell)
