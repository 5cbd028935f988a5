"""Files that are the old ones or the new ones, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
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


def write_folder(path: Path, contents: Mapping[str, bytes], replaced: str) -> None:
    """Write a folder of files, flushed to the disk before it takes its name; at any moment the old one or the new one
    is whole.

    Args:
        path: the folder; its parents are made.
        contents: file name → content.
        replaced: what an old folder of that name is called from then on, beside it.

    Raises:
        OSError: it could not be written; an old folder is intact, or has the name `replaced`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in contents.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _flush_folder(temporary)
        if path.exists():
            old = path.with_name(replaced)
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        temporary.rename(path)
        _flush_folder(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
