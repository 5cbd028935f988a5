"""The command `contraflow`: one table, command → plain function."""

from contraflow.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
