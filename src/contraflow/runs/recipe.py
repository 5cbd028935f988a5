"""The configuration of an experiment, as dataclasses that print, parse and compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

from contraflow.errors import CheckpointError, ConfigurationError, ContraflowError, unknown_name
from contraflow.lipschitz import LearnedNorms, MixedNorms, NarrowRange, Norms, SkewedRange, Spectral
from contraflow.lipschitz.norms import OrdersObjective
from contraflow.logdet import EVALUATION, TRAINING, LogDetEstimator
from contraflow.runs.choices import CHOICES, ESTIMATOR, is_a
from contraflow.training import LIKELIHOOD, Objective, TrainingSettings


@dataclass
class DataSettings:
    """Which data.

    Args:
        name: a named data set (`contraflow data`), or the path of a CSV, Parquet, .npy or .npz file or a folder of
            images.
        root: folder of the named data sets; $CONTRAFLOW_DATA or ~/.cache/contraflow when not given.
        columns: columns of a table to use; all when not given.
        dequantise: columns of a table that hold integers: uniform noise of one step makes a density of them, log p(x)
            becomes a bound that counts their probabilities, and samples are integers again. By name, or by number
            from 0 where the file has no names.
        size: side in pixels to which the images of a folder are brought.
        grey: read the images of a folder in grey.
        limit: use only so many training rows, for quick trials.
        labels: keep so many labels of the training rows, the same number of each class, and forget the others.
    """

    name: str = "digits"
    root: str | None = None
    columns: list[str] | None = None
    dequantise: list[str | int] | None = None
    size: int | None = None
    grey: bool = False
    limit: int | None = None
    labels: int | None = None

    def __post_init__(self) -> None:
        _require_positive("data", self, "limit", "labels")


@dataclass
class PreprocessingSettings:
    """What happens to data before the flow; its log-determinant is part of log p(x).

    Args:
        kind: image (dequantise, scale, logit or standardise); for tables standardise (by mean and standard deviation),
            robust (by median and quartiles, with outliers drawn in), or none.
        bits: reduce images to so many bits a channel.
        alpha: of the logit transform; the authors' code of Residual Flows has 1e-6 for MNIST and 0.05 elsewhere.
        standardise: give each channel of the training images mean 0 and variance 1 instead of the logit transform.
        flip: mirror training images at random.
        crop_padding: reflect-pad training images by so many pixels and crop at random.
        mutate: replace this share of the pixels of training images by uniform levels (0.1 to 0.3), which makes the
            background flow of `contraflow ood --background`.
        dequantisation: noise that makes integer pixels real: uniform, or variational, learned beside the flow.
    """

    kind: Literal["image", "standardise", "robust", "none"] = "image"
    bits: int | None = None
    alpha: float = 0.05
    standardise: bool = False
    flip: bool = False
    crop_padding: int = 0
    mutate: float = 0.0
    dequantisation: Literal["uniform", "variational"] = "uniform"


@dataclass
class NormSettings:
    """The norms in which every residual block is a contraction; train with training.certified=true to keep them proved.

    Args:
        kind: spectral, mixed (the given orders), learned (every order of a block free, but for the last, which is the
            first) or learned_shared (one learned order a block). Appendix D of Chen et al. 2019.
        orders: for mixed, p₀ … p_n with p_n = p₀, one more than the layers of a block, for instance [2,2.3,2.3,2].
        squash: range of learned orders: narrow is (1.5, 2.5), skewed is (1, 5).
        orders_objective: what learned orders minimise: likelihood (the loss, through the norms that divide the
            weights) or mean_norm (the mean norm of all layers, as the authors' code does).
    """

    kind: Literal["spectral", "mixed", "learned", "learned_shared"] = "spectral"
    orders: list[float] | None = None
    squash: Literal["narrow", "skewed"] = "narrow"
    orders_objective: OrdersObjective = "likelihood"

    def __post_init__(self) -> None:
        if (self.kind == "mixed") != (self.orders is not None):
            raise ConfigurationError(
                f"architecture.norms.kind={self.kind}, orders={self.orders}: mixed norms need orders, others take none."
            )
        if self.orders_objective != "likelihood" and not self.kind.startswith("learned"):
            raise ConfigurationError(
                f"architecture.norms.orders_objective={self.orders_objective}: {self.kind} norms learn no orders; "
                "take architecture.norms.kind=learned or learned_shared."
            )
        self.build()

    def build(self) -> Norms:
        """The norms."""
        if self.orders is not None:
            return MixedNorms(tuple(self.orders))
        if self.kind == "spectral":
            return Spectral()
        squash = NarrowRange() if self.squash == "narrow" else SkewedRange()
        return LearnedNorms(self.kind == "learned_shared", squash, self.orders_objective)


@dataclass
class ArchitectureSettings:
    """Which flow.

    Args:
        name: a name of `contraflow architectures`.
        options: keywords of its function, for instance architecture.options.hidden=128.
        norms: the norms in which its blocks are contractions.
    """

    name: str = "residual_flow_digits"
    options: dict[str, Any] = field(default_factory=dict)
    norms: NormSettings = field(default_factory=NormSettings)


@dataclass
class EvaluationSettings:
    """How the finished flow is scored.

    Args:
        estimator: of the log-determinant; 20 exact terms and roulette as in the paper, with independent draws so that
            the standard error holds.
        draws: independent estimates averaged for every row.
        batch_size: rows at once.
        limit: score only so many test rows; all when not given.
        samples: samples drawn for the picture.
    """

    estimator: LogDetEstimator = EVALUATION
    draws: int = 1
    batch_size: int = 200
    limit: int | None = None
    samples: int = 100

    def __post_init__(self) -> None:
        _require_positive("evaluation", self, "draws", "batch_size", "limit", "samples")


@dataclass
class Recipe:
    """A complete experiment.

    Args:
        recipe: name of the recipe that this one started from.
        data: which data.
        preprocessing: what happens to them first.
        architecture: which flow.
        estimator: log-determinant in training; 2 exact terms + Geometric(0.5) as in the paper.
        objective: what training minimises.
        training: how it is trained.
        evaluation: how it is scored.
        seed: of everything random.
        device: cpu, cuda or cuda:N.
        dtype: precision of weights and computation.
    """

    recipe: str = "digits"
    data: DataSettings = field(default_factory=DataSettings)
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    architecture: ArchitectureSettings = field(default_factory=ArchitectureSettings)
    estimator: LogDetEstimator = TRAINING
    objective: Objective = LIKELIHOOD
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; estimators and objective by their keys (`contraflow.runs.choices`)."""
        return _as_dict(self)

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """A recipe with other values under some keys, nested as in `as_dict`.

        Raises:
            ConfigurationError: keys that do not belong, or values that do not fit.

        >>> Recipe().changed({"training": {"steps": 5}, "estimator": {"kind": "series"}}).estimator
        PowerSeries(terms=5, probe=Rademacher(), probes=1)
        """
        return _changed(self, values, "")

    def changes(self, base: Recipe) -> dict[str, Any]:
        """Path → value of what differs from another recipe: `base` changed by these, one after another, is this one.

        >>> from contraflow.logdet import Exact
        >>> recipe = Recipe(estimator=Exact())
        >>> recipe.training.steps = 5
        >>> recipe.changes(Recipe())
        {'estimator.kind': 'exact', 'training.steps': 5}
        """
        return dict(_changes(self, base, ""))

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """The recipe that `as_dict` wrote.

        Raises:
            CheckpointError: keys that do not belong, or values that do not fit.
        """
        try:
            return cls().changed(_in_todays_keys(values))
        except ContraflowError as error:
            raise CheckpointError(f"config.json: {error}") from error


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        ConfigurationError: negative, or beyond 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"seed={seed}: it must be at least 0 and less than 2⁶³.")


def _require_positive(where: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"{where}.{name}={value}: it must be at least 1.")


def _as_dict(settings: Any) -> dict[str, Any]:
    hints, found = get_type_hints(type(settings)), {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if hints[one.name] in CHOICES:
            found[one.name] = CHOICES[hints[one.name]].as_keys(value)
        else:
            found[one.name] = _as_dict(value) if is_dataclass(value) else copy.deepcopy(value)
    return found


Settings = TypeVar("Settings")


def _changed(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    hints, made = get_type_hints(type(settings)), {}
    for name, value in values.items():
        path = f"{where}{name}"
        if name not in hints:
            raise unknown_name("key", path, [f"{where}{one}" for one in hints])
        hint, old = hints[name], getattr(settings, name)
        if hint in CHOICES or is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{path}={value!r}, where it takes keys and values itself.")
            choice = CHOICES.get(hint)
            made[name] = _changed(old, value, f"{path}.") if choice is None else choice.changed(old, value, path)
        elif is_a(value, hint):
            made[name] = copy.deepcopy(value)
        else:
            raise ConfigurationError(f"{path}={value!r} is of another type than it must be.")
    return replace(copy.deepcopy(settings), **made)  # type: ignore[type-var]


def _changes(settings: Any, base: Any, where: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(type(settings)).items():
        value, usual, path = getattr(settings, name), getattr(base, name), f"{where}{name}"
        if hint in CHOICES:
            yield from ((f"{path}.{key}", one) for key, one in CHOICES[hint].changes(value, usual).items())
        elif is_dataclass(hint):
            yield from _changes(value, usual, f"{path}.")
        elif isinstance(value, dict) and usual.keys() <= value.keys():
            yield from ((f"{path}.{key}", one) for key, one in value.items() if key not in usual or usual[key] != one)
        elif value != usual:
            yield path, value


def _in_todays_keys(values: Any) -> Mapping[str, Any]:
    """What runs wrote before estimators and objectives were choices, in the keys of today."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"recipe={values!r}, where it takes keys and values itself.")
    found = dict(values)
    training = found.get("training")
    if isinstance(training, Mapping) and "objective" in training:
        weight = {"likelihood_weight": training.get("likelihood_weight", "1/D")}
        found["training"] = {key: one for key, one in training.items() if key not in ("objective", *weight)}
        hybrid = training["objective"] == "hybrid"
        found["objective"] = {"kind": training["objective"], **(weight if hybrid else {})}
    if isinstance(estimator := found.get("estimator"), Mapping):
        found["estimator"] = _estimator_in_todays_keys(estimator)
    evaluation = found.get("evaluation")
    if isinstance(evaluation, Mapping) and isinstance(estimator := evaluation.get("estimator"), Mapping):
        found["evaluation"] = {**evaluation, "estimator": _estimator_in_todays_keys(estimator)}
    return found


def _estimator_in_todays_keys(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {"terms", "law"} <= values.keys():  # no kind takes both: only the flat record of all keys had them
        return values
    if values.get("kind") == "roulette" and values["law"] == "adaptive":
        values = {**values, "kind": "adaptive"}
    known, taken = ESTIMATOR.keys(), ESTIMATOR.taken(values, "estimator")
    return {key: one for key, one in values.items() if key in taken or key not in known}
