"""The configuration of an experiment, as dataclasses that print, parse and compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from contraflow.errors import CheckpointError, ConfigurationError
from contraflow.lipschitz import LearnedNorms, MixedNorms, NarrowRange, Norms, SkewedRange, Spectral
from contraflow.logdet import AdaptiveRoulette, Exact, Geometric, LogDetEstimator, Poisson, PowerSeries, RussianRoulette, TruncationLaw
from contraflow.logdet.probes import Gaussian, PairedRademacher, Probe, Rademacher
from contraflow.training import TrainingSettings


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
    """

    kind: Literal["spectral", "mixed", "learned", "learned_shared"] = "spectral"
    orders: list[float] | None = None
    squash: Literal["narrow", "skewed"] = "narrow"

    def __post_init__(self) -> None:
        if (self.kind == "mixed") != (self.orders is not None):
            raise ConfigurationError(
                f"architecture.norms.kind={self.kind}, orders={self.orders}: mixed norms need orders, others take none."
            )
        self.build()

    def build(self) -> Norms:
        """The norms."""
        if self.orders is not None:
            return MixedNorms(tuple(self.orders))
        if self.kind == "spectral":
            return Spectral()
        squash = NarrowRange() if self.squash == "narrow" else SkewedRange()
        return LearnedNorms(self.kind == "learned_shared", squash)


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


_PROBES: dict[str, type[Probe]] = {"rademacher": Rademacher, "paired": PairedRademacher, "gaussian": Gaussian}


@dataclass
class EstimatorSettings:
    """How log|det(I + J)| is estimated.

    Args:
        kind: roulette (unbiased), series (biased, as in i-ResNets), exact (dense Jacobian, small dimensions).
        law: of the roulette's number of further terms; adaptive learns it block by block (p, rate and exact_terms are
            not used).
        p: of the geometric law.
        rate: of the Poisson law.
        exact_terms: terms of the roulette that every sample computes.
        terms: terms of the biased series.
        probe: distribution of the probes; paired is rademacher in pairs that cancel what couples neighbours, where
            probes is even.
        probes: probes a sample.
        stratified: systematic draws over the batch (constant cost a step) instead of independent ones.
        series_dtype: bfloat16 computes the products of a roulette with a fixed law in half precision, for speed on
            processors that have it.
    """

    kind: Literal["roulette", "series", "exact"] = "roulette"
    law: Literal["geometric", "poisson", "adaptive"] = "geometric"
    p: float = 0.5
    rate: float = 2.0
    exact_terms: int = 2
    terms: int = 5
    probe: Literal["rademacher", "paired", "gaussian"] = "rademacher"
    probes: int = 1
    stratified: bool = True
    series_dtype: Literal["same", "bfloat16"] = "same"

    def build(self) -> LogDetEstimator:
        """The estimator.

        Raises:
            ConfigurationError: `series_dtype` where it has no meaning.
        """
        if self.series_dtype != "same" and (self.kind != "roulette" or self.law == "adaptive"):
            raise ConfigurationError(
                f"series_dtype={self.series_dtype}: it belongs to kind=roulette with law=geometric or poisson, "
                f"not to kind={self.kind} with law={self.law}."
            )
        if self.kind == "exact":
            return Exact()
        probe = _PROBES[self.probe]()
        if self.kind == "series":
            return PowerSeries(self.terms, probe, self.probes)
        if self.law == "adaptive":
            return AdaptiveRoulette(probe, self.probes, self.stratified)
        law: TruncationLaw = Geometric(self.p) if self.law == "geometric" else Poisson(self.rate)
        dtype = None if self.series_dtype == "same" else torch.bfloat16
        return RussianRoulette(law, self.exact_terms, probe, self.probes, self.stratified, dtype)


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

    estimator: EstimatorSettings = field(default_factory=lambda: EstimatorSettings(exact_terms=20, stratified=False))
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
    estimator: EstimatorSettings = field(default_factory=EstimatorSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """The recipe that `as_dict` wrote.

        Raises:
            CheckpointError: keys that do not belong, or values that do not fit.
        """
        return _from_dict(cls, values, "recipe")


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


def _from_dict(cls: type, values: Any, where: str) -> Any:
    hints = get_type_hints(cls)
    if not isinstance(values, dict) or set(values) - hints.keys():
        raise CheckpointError(f"config.json: {where} is not what this version of contraflow writes.")
    made = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            made[name] = _from_dict(hints[name], value, f"{where}.{name}")
        elif is_a(value, hints[name]):
            made[name] = value
        else:
            raise CheckpointError(f"config.json: {where}.{name}={value!r} is of another type than it must be.")
    try:
        return cls(**made)
    except ConfigurationError as error:
        raise CheckpointError(f"config.json: {error}") from error


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
