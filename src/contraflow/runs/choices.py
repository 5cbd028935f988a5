"""How a recipe writes an estimator or an objective, in files and on the command line: as plain keys and values.

A choice is a tagged union: `kind` names the class, and the other keys are the fields of that class.

    estimator: {kind: roulette, law: geometric, p: 0.5, exact_terms: 2, …}
    objective: {kind: hybrid, likelihood_weight: 1/D}

A new estimator, truncation law, probe or objective becomes available in recipes and on the command line by an entry
in one dict below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from contraflow.errors import ConfigurationError, unknown_name
from contraflow.logdet import (
    AdaptiveRoulette,
    Exact,
    Geometric,
    LogDetEstimator,
    PaperRoulette,
    Poisson,
    PowerSeries,
    RussianRoulette,
    TruncationLaw,
)
from contraflow.logdet.probes import Gaussian, PairedRademacher, Probe, Rademacher
from contraflow.training import FlowMatching, Hybrid, Likelihood, Objective

ESTIMATORS: dict[str, type[LogDetEstimator]] = {
    "roulette": RussianRoulette,
    "adaptive": AdaptiveRoulette,
    "paper": PaperRoulette,
    "series": PowerSeries,
    "exact": Exact,
}
LAWS: dict[str, type[TruncationLaw]] = {"geometric": Geometric, "poisson": Poisson}
PROBES: dict[str, type[Probe]] = {"rademacher": Rademacher, "paired": PairedRademacher, "gaussian": Gaussian}
DTYPES: dict[str, torch.dtype | None] = {"same": None, "bfloat16": torch.bfloat16}
OBJECTIVES: dict[str, type[Objective]] = {
    "likelihood": Likelihood,
    "hybrid": Hybrid,
    "flow_matching": FlowMatching,
}


@dataclass(frozen=True)
class Key:
    """A key, as the class that one tag names defines it.

    Attributes:
        type: the annotation of its values.
        help: its description.
        owner: that tag, for instance kind=series; empty for the tag of the choice itself, which is always accepted.
    """

    type: Any
    help: str
    owner: str


@dataclass(frozen=True)
class Choice:
    """A dataclass chosen by a tag, and its fields as keys.

    Args:
        tag: the key that names the class; without it, the first class is meant.
        classes: name → dataclass.
        parts: fields that are choices themselves; their tag is the name of the field, and their keys stand beside the
            others.
        names: fields whose values are written by names.
        about: description of the tag.
    """

    tag: str
    classes: Mapping[str, type]
    parts: Mapping[str, Choice] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: str = ""

    def keys(self) -> dict[str, list[Key]]:
        """All keys, each with its definition for every tag that accepts it."""
        import docstring_parser

        keys = {self.tag: [Key(Literal[tuple(self.classes)], self.about, "")]}
        for name, cls in self.classes.items():
            documented = docstring_parser.parse(cls.__doc__ or "").params
            helps = {parameter.arg_name: parameter.description or "" for parameter in documented}
            for key, hint in _fields(cls).items():
                names = self.parts[key].classes if key in self.parts else self.names.get(key)
                values = hint if names is None else Literal[tuple(names)]
                keys.setdefault(key, []).append(Key(values, helps.get(key, ""), f"{self.tag}={name}"))
        for part in self.parts.values():
            keys |= {key: definitions for key, definitions in part.keys().items() if key != part.tag}
        return keys

    def as_keys(self, value: Any) -> dict[str, Any]:
        """All keys of a value object, with their values.

        Raises:
            ConfigurationError: the class, or the value of a field, has no name here.

        >>> ESTIMATOR.as_keys(PowerSeries(5))
        {'kind': 'series', 'terms': 5, 'probe': 'rademacher', 'probes': 1}
        """
        keys: dict[str, Any] = {self.tag: _name_of(type(value), self.classes, self.tag)}
        for key in _fields(type(value)):
            inner = getattr(value, key)
            if key in self.parts:
                keys |= self.parts[key].as_keys(inner)
            elif key in self.names:
                keys[key] = _name_of(inner, self.names[key], key)
            else:
                keys[key] = inner
        return keys

    def changed(self, value: Any, keys: Mapping[str, Any], where: str) -> Any:
        """The value object with some keys changed; with a new tag, the keys that both classes have keep their values.

        Args:
            value: the object to change.
            keys: new values of some keys.
            where: the path of the keys, for error messages.

        Raises:
            ConfigurationError: the class does not accept a key, or a tag names no class.
            DomainError: a number is out of range.

        >>> ESTIMATOR.changed(PowerSeries(5), {"terms": 3}, "estimator")
        PowerSeries(terms=3, probe=Rademacher(), probes=1)
        >>> ESTIMATOR.changed(PowerSeries(5), {"p": 0.3}, "estimator")
        Traceback (most recent call last):
        contraflow.errors.ConfigurationError: estimator.p=0.3: kind=series does not accept it, law=geometric does.
        """
        old, known = self.as_keys(value), self.keys()
        tags = self._tags({**old, **keys}, where)
        accepted = _accepted(known, tags)
        for key, new in keys.items():
            if key not in known:
                raise unknown_name("key", f"{where}.{key}", [f"{where}.{name}" for name in known])
            if key not in accepted:
                raise ConfigurationError(f"{where}.{key}={new}: {_refusal(tags, known[key])}")
            if not any(is_a(new, definition.type) for definition in known[key]):
                raise ConfigurationError(f"{where}.{key}={new!r} has the wrong type.")
        return self._build({key: kept for key, kept in old.items() if key in accepted} | dict(keys))

    def changes(self, value: Any, base: Any) -> dict[str, Any]:
        """The keys that turn `base` into `value`: `changed(base, changes(value, base))` equals `value`.

        >>> ESTIMATOR.changes(PowerSeries(3), RussianRoulette())
        {'kind': 'series', 'terms': 3}
        """
        target, old = self.as_keys(value), self.as_keys(base)
        tags = {tag: name for tag, name in self._tags(target, "").items() if old.get(tag) != name}
        retagged = self.as_keys(self.changed(base, tags, ""))
        return tags | {key: new for key, new in target.items() if retagged[key] != new}

    def accepted(self, keys: Mapping[str, Any], where: str) -> set[str]:
        """The keys that the classes accept which these keys name.

        Raises:
            ConfigurationError: a tag names no class.
        """
        return _accepted(self.keys(), self._tags(keys, where))

    def _tags(self, keys: Mapping[str, Any], where: str) -> dict[str, str]:
        """Tag → name, of this choice and of its parts."""
        name = keys.get(self.tag, next(iter(self.classes)))
        if not isinstance(name, str) or name not in self.classes:
            raise unknown_name(f"{where}.{self.tag}", str(name), self.classes)
        tags = {self.tag: name}
        for key in _fields(self.classes[name]):
            if key in self.parts:
                tags |= self.parts[key]._tags(keys, where)
        return tags

    def _build(self, keys: Mapping[str, Any]) -> Any:
        cls = self.classes[keys.get(self.tag, next(iter(self.classes)))]
        return cls(**dict(self._arguments(cls, keys)))

    def _arguments(self, cls: type, keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key in _fields(cls):
            if key in self.parts:
                yield key, self.parts[key]._build(keys)
            elif key in keys:
                named = self.names.get(key)
                yield key, keys[key] if named is None else named[keys[key]]


def _fields(cls: type) -> dict[str, Any]:
    """The fields of a dataclass, with their types."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _name_of(value: Any, names: Mapping[str, Any], key: str) -> str:
    for name, known in names.items():
        if known == value:
            return name
    shown = value.__name__ if isinstance(value, type) else value
    raise ConfigurationError(
        f"{shown}: no {key} that a recipe can name. Known: {', '.join(names)}. Add yours in contraflow.runs.choices."
    )


def _accepted(known: Mapping[str, Sequence[Key]], tags: Mapping[str, str]) -> set[str]:
    chosen = {"", *(f"{tag}={name}" for tag, name in tags.items())}
    return {key for key, definitions in known.items() if any(each.owner in chosen for each in definitions)}


def _refusal(tags: Mapping[str, str], definitions: Sequence[Key]) -> str:
    """Which of the chosen tags do not accept a key, and which tags would."""
    owners = [definition.owner for definition in definitions]
    concerned = {owner.split("=")[0] for owner in owners} & tags.keys() or {next(iter(tags))}
    chosen = ", ".join(f"{tag}={name}" for tag, name in tags.items() if tag in concerned)
    return f"{chosen} does not accept it, {' and '.join(owners)} {'do' if owners[1:] else 'does'}."


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON has an annotated type: a plain one, a literal, a union, a list or a dict.

    >>> is_a([1, 2], list[int]), is_a(True, int), is_a(3, float), is_a(None, str | None)
    (True, False, True, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (UnionType, Union):
        return any(is_a(value, member) for member in arguments)
    if origin is list:
        return isinstance(value, list) and all(is_a(item, arguments[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is (origin or hint)


ESTIMATOR = Choice(
    "kind",
    ESTIMATORS,
    parts={"law": Choice("law", LAWS), "probe": Choice("probe", PROBES)},
    names={"series_dtype": DTYPES},
    about="how log-determinants are computed: roulette (power series, unbiased), adaptive (unbiased, with a truncation "
    "law learned for each block), paper (unbiased, as the authors of Residual Flows draw it: one number of terms for "
    "the whole batch, Gaussian probes), series (power series cut off, biased, as in i-ResNets), exact (dense Jacobian, "
    "for small dimensions).",
)
OBJECTIVE = Choice(
    "kind",
    OBJECTIVES,
    about="what is maximised: likelihood, log p(x); or hybrid, λ log p(x) + log p(y|x), for flows with a classifier "
    "and data with labels; or what is minimised: flow_matching, the error of the vector field of a continuous flow, "
    "without solving its equation.",
)

#: Annotated type of a setting → how it is chosen.
CHOICES: dict[Any, Choice] = {LogDetEstimator: ESTIMATOR, Objective: OBJECTIVE}
