"""Value objects as plain keys: what a recipe says of an estimator or an objective, in files and on the command line.

A choice is a tagged union: `kind` names the class, and the other keys are the fields of that class,

    estimator: {kind: roulette, law: geometric, p: 0.5, exact_terms: 2, …}
    objective: {kind: hybrid, likelihood_weight: 1/D}

A new estimator, truncation law, probe or objective reaches recipes and the command by its entry in one dict below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from contraflow.errors import ConfigurationError, unknown_name
from contraflow.logdet import AdaptiveRoulette, Exact, Geometric, LogDetEstimator, Poisson, PowerSeries, RussianRoulette, TruncationLaw
from contraflow.logdet.probes import Gaussian, PairedRademacher, Probe, Rademacher
from contraflow.training import FlowMatching, Hybrid, Likelihood, Objective

ESTIMATORS: dict[str, type[LogDetEstimator]] = {
    "roulette": RussianRoulette,
    "adaptive": AdaptiveRoulette,
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
    """A key as one tag has it.

    Attributes:
        taker: that tag, for instance kind=series; empty for the tag of the choice itself, which stands in any case.
    """

    type: Any
    help: str
    taker: str


@dataclass(frozen=True)
class Choice:
    """A value object chosen by a tag.

    Args:
        tag: the key that names the class; the first class is meant where it is missing.
        classes: name → dataclass.
        parts: fields that are choices themselves; their keys stand beside the others, their tag is the field's name.
        names: fields whose values have names.
        about: help of the tag.
    """

    tag: str
    classes: Mapping[str, type]
    parts: Mapping[str, Choice] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: str = ""

    def keys(self) -> dict[str, list[Key]]:
        """All keys, each as the tags that take it have it."""
        import docstring_parser

        found = {self.tag: [Key(Literal[tuple(self.classes)], self.about, "")]}
        for name, cls in self.classes.items():
            helps = {one.arg_name: one.description or "" for one in docstring_parser.parse(cls.__doc__ or "").params}
            hints = get_type_hints(cls)
            for one in fields(cls):
                names = self.parts[one.name].classes if one.name in self.parts else self.names.get(one.name)
                hint = hints[one.name] if names is None else Literal[tuple(names)]
                found.setdefault(one.name, []).append(Key(hint, helps.get(one.name, ""), f"{self.tag}={name}"))
        for part in self.parts.values():
            found |= {key: uses for key, uses in part.keys().items() if key != part.tag}
        return found

    def as_keys(self, value: Any) -> dict[str, Any]:
        """The keys of a value object, all that its class takes.

        Raises:
            ConfigurationError: a class, or the value of a field, that has no name here.

        >>> ESTIMATOR.as_keys(PowerSeries(5))
        {'kind': 'series', 'terms': 5, 'probe': 'rademacher', 'probes': 1}
        """
        found: dict[str, Any] = {self.tag: _name_of(type(value), self.classes, self.tag)}
        for one in fields(value):
            inner = getattr(value, one.name)
            if one.name in self.parts:
                found |= self.parts[one.name].as_keys(inner)
            elif one.name in self.names:
                found[one.name] = _name_of(inner, self.names[one.name], one.name)
            else:
                found[one.name] = inner
        return found

    def changed(self, value: Any, keys: Mapping[str, Any], where: str) -> Any:
        """The value object with some keys changed; under a new tag it keeps the keys that both classes take.

        Args:
            value: what is changed.
            keys: new values of some keys.
            where: path of the keys, for messages.

        Raises:
            ConfigurationError: a key that the class does not take, or a tag that names none.
            DomainError: a number that the class refuses.

        >>> ESTIMATOR.changed(PowerSeries(5), {"terms": 3}, "estimator")
        PowerSeries(terms=3, probe=Rademacher(), probes=1)
        >>> ESTIMATOR.changed(PowerSeries(5), {"p": 0.3}, "estimator")
        Traceback (most recent call last):
        contraflow.errors.ConfigurationError: estimator.p=0.3: kind=series does not take it, law=geometric does.
        """
        old, known = self.as_keys(value), self.keys()
        tags = self._tags({**old, **keys}, where)
        taken = _taken(known, tags)
        for key, given in keys.items():
            if key not in known:
                raise unknown_name("key", f"{where}.{key}", [f"{where}.{one}" for one in known])
            if key not in taken:
                raise ConfigurationError(f"{where}.{key}={given}: {_refusal(tags, known[key])}")
            if not any(is_a(given, one.type) for one in known[key]):
                raise ConfigurationError(f"{where}.{key}={given!r} is of another type than it must be.")
        return self._build({key: one for key, one in old.items() if key in taken} | dict(keys))

    def changes(self, value: Any, base: Any) -> dict[str, Any]:
        """The keys that make `base` this value: `changed(base, changes(value, base))` is it.

        >>> ESTIMATOR.changes(PowerSeries(3), RussianRoulette())
        {'kind': 'series', 'terms': 3}
        """
        wanted, old = self.as_keys(value), self.as_keys(base)
        tags = {tag: name for tag, name in self._tags(wanted, "").items() if old.get(tag) != name}
        near = self.as_keys(self.changed(base, tags, ""))
        return tags | {key: one for key, one in wanted.items() if near[key] != one}

    def taken(self, keys: Mapping[str, Any], where: str) -> set[str]:
        """The keys that the classes take which these keys name.

        Raises:
            ConfigurationError: a tag names no class.
        """
        return _taken(self.keys(), self._tags(keys, where))

    def _tags(self, keys: Mapping[str, Any], where: str) -> dict[str, str]:
        """Tag → name, of all choices in force."""
        name = keys.get(self.tag, next(iter(self.classes)))
        if not isinstance(name, str) or name not in self.classes:
            raise unknown_name(f"{where}.{self.tag}", str(name), self.classes)
        found = {self.tag: name}
        for one in fields(self.classes[name]):
            if one.name in self.parts:
                found |= self.parts[one.name]._tags(keys, where)
        return found

    def _build(self, keys: Mapping[str, Any]) -> Any:
        cls = self.classes[keys.get(self.tag, next(iter(self.classes)))]
        return cls(**dict(self._arguments(cls, keys)))

    def _arguments(self, cls: type, keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for one in fields(cls):
            if one.name in self.parts:
                yield one.name, self.parts[one.name]._build(keys)
            elif one.name in keys:
                named = self.names.get(one.name)
                yield one.name, keys[one.name] if named is None else named[keys[one.name]]


def _name_of(value: Any, names: Mapping[str, Any], key: str) -> str:
    for name, known in names.items():
        if known == value:
            return name
    said = value.__name__ if isinstance(value, type) else value
    raise ConfigurationError(
        f"{said} is no {key} that a recipe can write down. Known: {', '.join(names)}. Enter it in "
        "contraflow.runs.choices."
    )


def _taken(known: Mapping[str, Sequence[Key]], tags: Mapping[str, str]) -> set[str]:
    chosen = {"", *(f"{tag}={name}" for tag, name in tags.items())}
    return {key for key, uses in known.items() if any(one.taker in chosen for one in uses)}


def _refusal(tags: Mapping[str, str], uses: Sequence[Key]) -> str:
    """Which tags in force do not take a key, and which would."""
    takers = [one.taker for one in uses]
    concerned = {one.split("=")[0] for one in takers} & tags.keys() or {next(iter(tags))}
    chosen = ", ".join(f"{tag}={name}" for tag, name in tags.items() if tag in concerned)
    return f"{chosen} does not take it, {' and '.join(takers)} {'do' if takers[1:] else 'does'}."


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type: plain ones, literals, unions, lists and dicts.

    >>> is_a([1, 2], list[int]), is_a(True, int), is_a(3, float), is_a(None, str | None)
    (True, False, True, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (UnionType, Union):
        return any(is_a(value, one) for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(is_a(one, arguments[0]) for one in value)
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is (origin or hint)


ESTIMATOR = Choice(
    "kind",
    ESTIMATORS,
    parts={"law": Choice("law", LAWS), "probe": Choice("probe", PROBES)},
    names={"series_dtype": DTYPES},
    about="roulette (unbiased), adaptive (unbiased, its law learned block by block), series (biased, as in i-ResNets), "
    "exact (dense Jacobian, small dimensions).",
)
OBJECTIVE = Choice(
    "kind",
    OBJECTIVES,
    about="likelihood, log p(x); or hybrid, λ log p(x) + log p(y|x), for flows with a classifier and data with labels; "
    "or flow_matching, the error of an FFJORD's vector field, without solving its equation.",
)

#: Annotated type of a setting → the choice that it is.
CHOICES: dict[Any, Choice] = {LogDetEstimator: ESTIMATOR, Objective: OBJECTIVE}
