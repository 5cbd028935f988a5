"""The command line `contraflow`: a table of commands, each a plain function."""

from contraflow.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
