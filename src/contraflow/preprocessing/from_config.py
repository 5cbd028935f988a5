"""Preprocessing from its configuration, as checkpoints store it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from contraflow.errors import ConfigurationError, first_line, unknown_name
from contraflow.preprocessing.images import ImagePreprocessing
from contraflow.preprocessing.tables import TablePreprocessing

_KINDS: dict[str, Callable[..., ImagePreprocessing | TablePreprocessing]] = {
    "image": ImagePreprocessing,
    "table": TablePreprocessing,
}


def preprocessing_from_config(config: Mapping[str, Any]) -> ImagePreprocessing | TablePreprocessing:
    """The preprocessing whose ``config()`` method returned this configuration.

    Raises:
        ConfigurationError: the kind is unknown, a key is unknown or missing, or a value has the wrong type.

    >>> preprocessing_from_config({"kind": "image", "levels": 17, "alpha": 0.01}).reduced_levels
    17
    """
    arguments = dict(config)
    kind = str(arguments.pop("kind", None))
    if kind not in _KINDS:
        raise unknown_name("kind of preprocessing", kind, _KINDS)
    try:
        return _KINDS[kind](**arguments)
    except TypeError as error:
        raise ConfigurationError(
            f"preprocessing of kind {kind!r} cannot be made from {config}: {first_line(error)}."
        ) from error
