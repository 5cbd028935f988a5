"""The table of commands, and how an error is printed."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from contraflow.cli.catalogues import architectures, data, recipes
from contraflow.cli.certify import certify
from contraflow.cli.compare import compare
from contraflow.cli.completion import SHELLS, completion_script
from contraflow.cli.evaluate import evaluate
from contraflow.cli.laboratory import refusal
from contraflow.cli.ood import ood
from contraflow.cli.parsing import Command, Paths
from contraflow.cli.quality import quality
from contraflow.cli.report import report
from contraflow.cli.sample import sample
from contraflow.cli.score import score
from contraflow.cli.train import train_command, train_parser
from contraflow.data import DATASETS
from contraflow.errors import ContraflowError, first_line, unknown_name
from contraflow.runs import RECIPES

#: With this environment variable set, an unexpected error is printed with its traceback.
TRACEBACK_VARIABLE = "CONTRAFLOW_TRACEBACK"


def completion(shell: str) -> None:
    """Print the script with which a shell completes commands, options and names.

    Example: eval "$(contraflow completion bash)"

    Args:
        shell: bash, zsh or tcsh.
    """
    print(completion_script(COMMANDS, shell))


#: Name → function, its positional arguments, and what completes them in a shell.
COMMANDS: dict[str, Command] = {
    "train": Command(train_command, {"recipe": RECIPES}, lambda: train_parser(RECIPES["digits"]())),
    "evaluate": Command(evaluate, {"run": Paths.FOLDER}),
    "sample": Command(sample, {"run": Paths.FOLDER}),
    "score": Command(score, {"run": Paths.FOLDER, "file": Paths.FILE}),
    "certify": Command(certify, {"run": Paths.FOLDER}),
    "ood": Command(ood, {"run": Paths.FOLDER}),
    "quality": Command(quality, {"run": Paths.FOLDER}),
    "report": Command(report, {"run": Paths.FOLDER}),
    "compare": Command(compare, {"recipes": RECIPES}),
    "recipes": Command(recipes),
    "architectures": Command(architectures),
    "data": Command(data, {"action": ("list", "fetch", "check"), "name": DATASETS}),
    "completion": Command(completion, {"shell": SHELLS}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 after an error, which is printed in one line, or 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # a shell that has closed a stream (`>&-`) leaves None in its place
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal with another encoding shows ± as \xb1
    if (refused := refusal()) is not None:
        print(f"contraflow: error: {refused}", file=sys.stderr)
        return 2
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # so that a closed pipe is noticed here, not when the interpreter ends
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has closed it, as in `contraflow score … | head`: this is not an error.
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
    """The message of an error for the user: what happened, and what to do about it.

    >>> explained(FileNotFoundError(2, "No such file or directory", "a.png"))
    'a.png: No such file or directory.'
    """
    if isinstance(error, ContraflowError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'standard output'}: {error.strerror}."
    if isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error):
        return f"not enough memory ({first_line(error)}). Use a smaller batch_size, a smaller flow or less data."
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f", {Path(frame.filename).name} line {frame.lineno}" for frame in place)
    return (
        f"{type(error).__name__}: {first_line(error)}{where}. This is a bug in contraflow: please report it, with the "
        f"traceback that {TRACEBACK_VARIABLE}=1 prints."
    )


def _drop_output() -> None:
    """Discard what is left in the buffer of standard output where it cannot be written."""
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
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    COMMANDS[name].run(name, rest)


def _overview() -> str:
    lines = [f"  {name:15s}{row.summary}" for name, row in COMMANDS.items()]
    return "\n".join(
        [
            "usage: contraflow COMMAND [ARGUMENTS]",
            "",
            "Density estimation with invertible neural networks (normalizing flows): train one on images or tables,",
            "then compute log p(x), draw samples, classify, and prove that the network is invertible.",
            "",
            *lines,
            "",
            "Begin with:              contraflow train digits --out run",
            "Help for a command:      contraflow COMMAND --help",
        ]
    )
