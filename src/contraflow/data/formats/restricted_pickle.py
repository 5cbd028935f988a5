"""Read a pickle of plain values and byte arrays without running anything that it names.

CIFAR-10's Python release is a pickle, and a pickle is a program. Here the only names that it may call are those that
describe a numpy array, and each is answered by a stand-in that records its arguments; numpy itself is never called.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from contraflow.errors import DataError

# CPython's unpickler allots its memo up to the largest index named, so one opcode could claim gigabytes
_LARGEST_MEMO = 1 << 20
_CONTAINERS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "SET")
_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}


class _ArrayRecord:
    """What a pickle says of an array: version, shape, dtype, Fortran order, bytes."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _TypeRecord:
    """What a pickle says of a dtype: its code, such as ``u1``; byte order does not matter for bytes."""

    def __init__(self, code: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # A fresh function each time: a pickle may set attributes on what it is given, and nothing shared must change.
        if (module, name) in _RECONSTRUCT:
            return lambda *_: _ArrayRecord()
        if (module, name) == ("numpy", "ndarray"):
            return lambda *_: None
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _TypeRecord(code)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, *_: text.encode("latin1")
        raise DataError(f"the pickle asks for {module}.{name}, which data has no need of; it was not run")

    def persistent_load(self, pid: object) -> object:
        raise DataError("the pickle refers to an object outside itself")


def read_restricted_pickle(content: bytes, source: str) -> dict[str, Any]:
    """The dictionary in a pickle; text keys, uint8 arrays as `numpy.ndarray`, other plain values as they are.

    Args:
        content: the pickle.
        source: name of the file, for messages.

    Raises:
        DataError: it is not a complete pickle of a dictionary, or names anything else than a numpy array.
    """
    try:
        _check_opcodes(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise DataError(f"a {type(loaded).__name__} is inside")
        return {_text(key): _array(value) for key, value in loaded.items()}
    except Exception as error:  # a broken pickle can raise nearly anything
        reason = " ".join(str(error).split())  # names inside the pickle may hold line breaks
        raise DataError(
            f"{source}: expected a pickled dictionary of plain values and byte arrays, got {type(error).__name__}: "
            f"{reason}. Download the official file again."
        ) from error


def _check_opcodes(content: bytes) -> None:
    """Refuse what no batch needs and what would take memory or time without end before it fails."""
    is_container: dict[int, bool] = {}  # by memo index
    before = ""
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            index = len(is_container) if name == "MEMOIZE" else int(argument or 0)
            if index > _LARGEST_MEMO:
                raise DataError(f"memo index {argument}")
            is_container[index] = before.endswith(_CONTAINERS)
        elif name == "DUP" or ("GET" in name and is_container.get(int(argument or 0))):
            # doubled thirty times over, a tuple takes minutes to hash or print
            raise DataError("a container is used twice")
        before = name


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _array(value: object) -> object:
    if not isinstance(value, _ArrayRecord):
        return value
    if not isinstance(value.state, tuple) or len(value.state) != 5:
        raise DataError("an array without its state is inside")
    _, shape, dtype, fortran, raw = value.state
    code = getattr(dtype, "code", None)
    if code not in ("u1", b"u1") or not isinstance(raw, bytes) or math.prod(shape) != len(raw):
        raise DataError(f"an array of type {code!r} and shape {shape!r} is inside, expected unsigned bytes")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
