"""The configuration of an experiment: dataclasses that can be written to JSON, read back, changed and compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

from contraflow.errors import CheckpointError, ConfigurationError, ContraflowError, unknown_name
from contraflow.lipschitz import LearnedNorms, MixedNorms, NarrowRange, Norms, SkewedRange, Spectral
from contraflow.lipschitz.norms import OrdersObjective
from contraflow.logdet import EVALUATION, TRAINING, LogDetEstimator
from contraflow.runs.choices import CHOICES, ESTIMATOR, is_a
from contraflow.training import LIKELIHOOD, Objective, TrainingSettings


@dataclass
class DataSettings:
    """The data to train on.

    Args:
        name: a named data set (`contraflow data` lists them), or the path of a CSV, Parquet, .npy or .npz file, or of
            a folder of images.
        root: the folder that holds the named data sets; by default $CONTRAFLOW_DATA, else ~/.cache/contraflow.
        columns: the columns of a table to use, for instance [age,height]; all by default.
        dequantise: the columns of a table that hold integers. Uniform noise of one step is added to them, so
            that they have a density; log p(x) is then a lower bound on the log-probability of the integers, and samples
            are integers. Names of columns, or numbers from 0 where the file has no names.
        size: crop and scale the images of a folder to this side in pixels.
        grey: read the images of a folder in grey.
        limit: use only this many training rows, for a quick trial.
        labels: keep this many labels of the training rows, as many of each class, and remove the others
            (semi-supervised learning).
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
    """Preprocessing of the data before they enter the flow; log p(x) includes its log-determinant.

    Args:
        kind: image for images (dequantisation, then a logit transform). For tables: standardise (by mean and standard
            deviation), robust (by median and quartiles, with outliers pulled in), or none.
        bits: reduce images to this many bits a channel.
        alpha: of the logit transform, logit(alpha + (1 - 2 alpha) x) for pixels x in [0, 1].
        standardise: give each channel of the training images mean 0 and variance 1, instead of the logit transform.
        flip: mirror training images left to right at random.
        crop_padding: pad training images by this many reflected pixels, and crop them at random to their size.
        mutate: replace this share of the pixels of training images by random levels (0.1 to 0.3). A flow trained so
            is the background of `contraflow ood --background`.
        dequantisation: the noise that is added to integer pixels: uniform, or variational, whose distribution is
            learned together with the flow.
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
    """The norms in which the Lipschitz bound of every residual block is enforced (Chen et al. 2019, Appendix D).

    Args:
        kind: spectral (p = 2 throughout), mixed (the orders given), learned (all orders of a block are learned; the
            last equals the first) or learned_shared (one learned order a block). With norms other than spectral,
            training.certified=true keeps the bounds proved while the flow trains.
        orders: for mixed, the orders p₀ … p_n with p_n = p₀, one more than the layers of a block, for instance
            [2,2.3,2.3,2].
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
                f"architecture.norms.kind={self.kind}, orders={self.orders}: mixed norms need orders; the other kinds "
                "take none."
            )
        if self.orders_objective != "likelihood" and not self.kind.startswith("learned"):
            raise ConfigurationError(
                f"architecture.norms.orders_objective={self.orders_objective}: {self.kind} norms learn no orders; "
                "take architecture.norms.kind=learned or learned_shared."
            )
        self.build()

    def build(self) -> Norms:
        """The norms as `contraflow.lipschitz` defines them."""
        if self.orders is not None:
            return MixedNorms(tuple(self.orders))
        if self.kind == "spectral":
            return Spectral()
        squash = NarrowRange() if self.squash == "narrow" else SkewedRange()
        return LearnedNorms(self.kind == "learned_shared", squash, self.orders_objective)


@dataclass
class ArchitectureSettings:
    """The flow to train.

    Args:
        name: the architecture; `contraflow architectures` lists them.
        options: keyword arguments of its function, for instance architecture.options.hidden=128.
        norms: the norms in which the Lipschitz bound of its blocks is enforced.
    """

    name: str = "residual_flow_digits"
    options: dict[str, Any] = field(default_factory=dict)
    norms: NormSettings = field(default_factory=NormSettings)


@dataclass
class EvaluationSettings:
    """How the trained flow is scored on test rows.

    Args:
        estimator: how log-determinants are computed; by default 20 exact terms and Russian roulette as in the paper,
            with independent draws, so that the standard error is valid.
        draws: independent estimates of log p(x) that are averaged for every row.
        batch_size: rows computed at once.
        limit: score only this many test rows; all by default.
        samples: number of samples in the picture.
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
    """The complete configuration of an experiment.

    Args:
        recipe: name of the recipe that this one started from.
        data: the data to train on.
        preprocessing: what is done to the data before they enter the flow.
        architecture: the flow to train.
        estimator: how log-determinants are computed in training; by default 2 exact terms and Russian roulette with
            Geometric(0.5), as in the paper.
        objective: what training minimises.
        training: optimiser, number of steps, checkpoints.
        evaluation: how the trained flow is scored.
        seed: seed of everything random: split of the data, initial weights, batches, noise.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision of the weights and of the computation.
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
        """Plain values for JSON; estimators and objective are written as in `contraflow.runs.choices`."""
        return _as_dict(self)

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """A copy of this recipe with other values of some keys, nested as in `as_dict`.

        Raises:
            ConfigurationError: an unknown key, or a value of the wrong type or out of range.

        >>> Recipe().changed({"training": {"steps": 5}, "estimator": {"kind": "series"}}).estimator
        PowerSeries(terms=5, probe=Rademacher(), probes=1)
        """
        return _changed(self, values, "")

    def changes(self, base: Recipe) -> dict[str, Any]:
        """Path → value of what differs from another recipe: `base` with these changes, in order, equals this recipe.

        >>> from contraflow.logdet import Exact
        >>> recipe = Recipe(estimator=Exact())
        >>> recipe.training.steps = 5
        >>> recipe.changes(Recipe())
        {'estimator.kind': 'exact', 'training.steps': 5}
        """
        return dict(_changes(self, base, ""))

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """Read the recipe that `as_dict` wrote.

        Raises:
            CheckpointError: an unknown key, or a value of the wrong type or out of range.
        """
        try:
            return cls().changed(_in_current_keys(values))
        except ContraflowError as error:
            raise CheckpointError(f"config.json: {error}") from error


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator does not accept.

    Raises:
        ConfigurationError: the seed is negative, or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"seed={seed}: it must be at least 0 and less than 2⁶³.")


def _require_positive(where: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigurationError(f"{where}.{name}={value}: it must be at least 1.")


def _as_dict(settings: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if hint in CHOICES:
            values[name] = CHOICES[hint].as_keys(value)
        else:
            values[name] = _as_dict(value) if is_dataclass(value) else copy.deepcopy(value)
    return values


Settings = TypeVar("Settings")


def _changed(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    hints, changes = get_type_hints(type(settings)), {}
    for name, value in values.items():
        path = f"{where}{name}"
        if name not in hints:
            raise unknown_name("key", path, [f"{where}{key}" for key in hints])
        hint, old = hints[name], getattr(settings, name)
        if hint in CHOICES or is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{path}={value!r}: expected keys and values.")
            choice = CHOICES.get(hint)
            changes[name] = _changed(old, value, f"{path}.") if choice is None else choice.changed(old, value, path)
        elif is_a(value, hint):
            changes[name] = copy.deepcopy(value)
        else:
            raise ConfigurationError(f"{path}={value!r} has the wrong type.")
    return replace(copy.deepcopy(settings), **changes)  # type: ignore[type-var]


def _changes(settings: Any, base: Any, where: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(type(settings)).items():
        value, old, path = getattr(settings, name), getattr(base, name), f"{where}{name}"
        if hint in CHOICES:
            yield from ((f"{path}.{key}", new) for key, new in CHOICES[hint].changes(value, old).items())
        elif is_dataclass(hint):
            yield from _changes(value, old, f"{path}.")
        elif isinstance(value, dict) and old.keys() <= value.keys():
            yield from ((f"{path}.{key}", new) for key, new in value.items() if key not in old or old[key] != new)
        elif value != old:
            yield path, value


def _in_current_keys(values: Any) -> Mapping[str, Any]:
    """The configuration of a run of an early version, with the keys of this version."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"recipe={values!r}: expected keys and values.")
    current = dict(values)
    training = current.get("training")
    if isinstance(training, Mapping) and "objective" in training:
        weight = {"likelihood_weight": training.get("likelihood_weight", "1/D")}
        current["training"] = {key: old for key, old in training.items() if key not in ("objective", *weight)}
        hybrid = training["objective"] == "hybrid"
        current["objective"] = {"kind": training["objective"], **(weight if hybrid else {})}
    if isinstance(estimator := current.get("estimator"), Mapping):
        current["estimator"] = _estimator_in_current_keys(estimator)
    evaluation = current.get("evaluation")
    if isinstance(evaluation, Mapping) and isinstance(estimator := evaluation.get("estimator"), Mapping):
        current["evaluation"] = {**evaluation, "estimator": _estimator_in_current_keys(estimator)}
    return current


def _estimator_in_current_keys(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {"terms", "law"} <= values.keys():  # no kind takes both keys: only early versions wrote all keys at once
        return values
    if values.get("kind") == "roulette" and values["law"] == "adaptive":
        values = {**values, "kind": "adaptive"}
    known, accepted = ESTIMATOR.keys(), ESTIMATOR.accepted(values, "estimator")
    return {key: value for key, value in values.items() if key in accepted or key not in known}
