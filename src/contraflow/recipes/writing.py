"""Files that are the old ones or the new ones, never half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contraflow.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` at the end, if all went well.

    Raises:
        OutputError: it could not be written; an old file of that name is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text by way of `replacing`, in UTF-8 whatever the locale is.

    A path whose name is not in the encoding of the file system keeps its bytes.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON by way of `replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON.

    Raises:
        OutputError: it could not be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; resume when there is room.") from error
