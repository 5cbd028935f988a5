"""Read a pickle of plain values and arrays without running anything that it names.

CIFAR-10's Python release is a pickle, and a pickle is a program. The only names that it may call here are those that
describe a numpy array. Each is answered by a stand-in that records its arguments; numpy itself is never called.
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
_HASHABLE_CONTAINERS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_CONTAINERS = (*_HASHABLE_CONTAINERS, "LIST", "DICT", "SET")
_LITTLE_ENDIAN = ("<", "|", "=")
_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_SLICE = {("builtins", "slice"), ("__builtin__", "slice")}


class ArrayRecord:
    """What a pickle says of an array: version, shape, dtype, Fortran order, bytes."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _TypeRecord:
    """What a pickle says of a dtype: its code, such as ``u1``, and its byte order."""

    order = "<"

    def __init__(self, code: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            self.order = as_text(state[1])


class ObjectRecord:
    """What a pickle says of an object of a package: the arguments that make it, and its state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: object) -> ObjectRecord:
        record = object.__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, package: str | None) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.package = package

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # A fresh function each time: a pickle may set attributes on what it is given, and nothing shared must change.
        if (module, name) in _RECONSTRUCT:
            return lambda *_: ArrayRecord()
        if (module, name) == ("numpy", "ndarray"):
            return lambda *_: None
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _TypeRecord(code)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, *_: text.encode("latin1")
        if self.package is not None and module.partition(".")[0] == self.package:
            return type("_Record", (ObjectRecord,), {})
        if self.package is not None and (module, name) in _SLICE:
            return lambda *arguments: slice(*arguments)
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
        loaded = load_records(content)
        if not isinstance(loaded, dict):
            raise DataError(f"a {type(loaded).__name__} is inside")
        return {as_text(key): _array(value) for key, value in loaded.items()}
    except Exception as error:  # a broken pickle can raise nearly anything
        raise not_a_pickle_of("a dictionary of plain values and byte arrays", source, error) from error


def load_records(content: bytes, package: str | None = None) -> Any:
    """What a pickle says, with `ArrayRecord` in the place of every array.

    Args:
        content: the pickle.
        package: objects of this package become `ObjectRecord`; every other name beyond numpy's arrays is refused.

    Raises:
        Exception: of nearly any kind, for a broken pickle.
    """
    # hashing and printing follow every use of a container; lists are not hashed, and records are not printed
    _check_opcodes(content, _CONTAINERS if package is None else _HASHABLE_CONTAINERS)
    return _Unpickler(content, package).load()


def not_a_pickle_of(expected: str, source: str, error: Exception) -> DataError:
    """What to tell of a pickle that could not be read."""
    reason = " ".join(str(error).split())  # names inside the pickle may hold line breaks
    return DataError(
        f"{source}: expected a pickle of {expected}, got {type(error).__name__}: {reason}. "
        "Download the official file again."
    )


def _check_opcodes(content: bytes, containers: tuple[str, ...]) -> None:
    """Refuse what no data need and what would take unlimited memory or time: `containers` may not be used twice."""
    is_container: dict[int, bool] = {}  # by memo index
    before = ""
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            index = len(is_container) if name == "MEMOIZE" else int(argument or 0)
            if index > _LARGEST_MEMO:
                raise DataError(f"memo index {argument}")
            is_container[index] = before.endswith(containers)
        elif name == "DUP" or ("GET" in name and is_container.get(int(argument or 0))):
            # doubled thirty times over, a tuple takes minutes to hash or print
            raise DataError("a container is used twice")
        before = name


def as_text(value: object) -> str:
    """A text of Python 2, which arrives as bytes, or of Python 3."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _array(value: object) -> object:
    if not isinstance(value, ArrayRecord):
        return value
    return array_from_record(value, ("u1",))


def array_from_record(record: ArrayRecord, codes: tuple[str, ...]) -> np.ndarray:
    """The array of little-endian numbers that a pickle describes.

    Args:
        record: what the pickle says of it.
        codes: the types that it may have, such as ``f8``.

    Raises:
        DataError: an array of another type, or whose bytes do not fit its shape.
    """
    if not isinstance(record.state, tuple) or len(record.state) != 5:
        raise DataError("an array without its state is inside")
    _, shape, dtype, fortran, raw = record.state
    code = as_text(getattr(dtype, "code", None))
    if code not in codes or not isinstance(raw, bytes) or getattr(dtype, "order", "<") not in _LITTLE_ENDIAN:
        raise DataError(f"an array of type {code} and shape {shape!r} is inside, expected {' or '.join(codes)}")
    kind = np.dtype(f"<{code}")
    if not isinstance(shape, tuple) or math.prod(shape) * kind.itemsize != len(raw):
        raise DataError(f"an array of type {code} and shape {shape!r} is inside, with {len(raw)} bytes")
    return np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if fortran else "C")
