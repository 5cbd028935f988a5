"""Fetch published data files from their official addresses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from contraflow.data.known_files import KnownFile, file_md5
from contraflow.errors import DataError, OutputError

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30
# the largest official file is 182 MB; a server that sends more is not serving it
_LARGEST = 1 << 30


def download(file: KnownFile, root: Path) -> Path:
    """Download one file to its first folder below `root`, unless a complete copy is already present.

    It is written under a temporary name, compared with its md5 sum, and then renamed, so that a file under its own
    name is always complete.

    Raises:
        DataError: no address answers with the right content; the message says where to put the file by hand.
        OutputError: the folder cannot be written.
    """
    target = root / file.folders[0] / file.name
    if target.is_file() and file.md5 is not None and file_md5(target) == file.md5:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target.parent}: cannot be made ({error}). Choose another root.") from error
    failures = []
    for address in file.addresses:
        try:
            _download_from(address, file, target)
            return target
        except (DataError, HTTPException, _Unreachable) as error:
            failures.append(f"{address}: {error}")
    reasons = "; ".join(failures) or "it has no official address"
    raise DataError(
        f"{file.name} could not be downloaded ({reasons}). Get it by other means and put it at {target}"
        + (f" (md5 {file.md5})." if file.md5 else ".")
    )


class _Unreachable(Exception):
    """The address did not answer, or the connection broke off."""


def _download_from(address: str, file: KnownFile, target: Path) -> None:
    try:
        answer = urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS)
    except (OSError, ValueError) as error:
        raise _Unreachable(str(error)) from error
    with answer, _temporary_beside(target) as (temporary, output):
        digest = hashlib.md5(usedforsecurity=False)
        received = 0
        for chunk in _with_progress(_chunks(answer), file.name, answer.headers.get("Content-Length")):
            received += len(chunk)
            if received > _LARGEST:
                raise DataError(f"sent more than {_LARGEST} bytes")
            digest.update(chunk)
            _write(output, chunk, target)
        if file.md5 is not None and digest.hexdigest() != file.md5:
            raise DataError(f"sent {received} bytes with md5 {digest.hexdigest()}, expected {file.md5}")
        _rename(output, temporary, target)


def _chunks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = answer.read(_CHUNK)
        except OSError as error:
            raise _Unreachable(str(error)) from error
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[tuple[str, BinaryIO]]:
    """A new file in the target's folder, removed again unless it was renamed."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise OutputError(f"{target.parent}: not writable ({error}). Choose another root.") from error
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield name, output
    finally:
        Path(name).unlink(missing_ok=True)


def _write(output: BinaryIO, chunk: bytes, target: Path) -> None:
    try:
        output.write(chunk)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}). Free some space or choose another root.") from error


def _rename(output: BinaryIO, temporary: str, target: Path) -> None:
    try:
        output.close()
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}). Free some space or choose another root.") from error


def _with_progress(chunks: Iterator[bytes], name: str, length: str | None) -> Iterator[bytes]:
    """The chunks, with a progress bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=int(length) if length and length.isdigit() else None)
        for chunk in chunks:
            progress.advance(task, len(chunk))
            yield chunk
