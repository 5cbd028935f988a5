"""Atomic writing of files and folders: an interruption leaves the old content or the new, never a part of it."""

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
    """A context with a temporary path to write to, which is renamed to `path` at the end unless an error occurs.

    Raises:
        OutputError: the file could not be written; an old file at `path` is unchanged.
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
    """Write text atomically, in UTF-8 regardless of the locale.

    Bytes of file names in the text that cannot be decoded are written unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON to a file.

    Raises:
        OutputError: the line could not be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; free some space and resume.") from error


def write_folder(path: Path, contents: Mapping[str, bytes], replaced: str) -> None:
    """Write a folder of files atomically; the files are flushed to disk before the folder is renamed to `path`.

    Args:
        path: the folder; its parents are created.
        contents: file name → content.
        replaced: new name of an old folder at `path`.

    Raises:
        OSError: the folder could not be written; an old folder is unchanged, except perhaps for its name `replaced`.
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
