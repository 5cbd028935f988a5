"""log p(x) = log p_Z(f(x)) + log|det J_f(x)|;  x = f⁻¹(z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from contraflow.bijections import Bijection, Chain, InverseSolution, ResidualBlock, invert, with_inverse, with_logdet
from contraflow.distributions import ClassNormal, GivenDistribution, StandardNormal
from contraflow.errors import ConfigurationError, DomainError, InversionError
from contraflow.inputs import (
    FLOATS,
    INTEGERS,
    accept,
    accept_context,
    as_rows,
    in_batch,
    named,
    narrow,
    sample_shape,
)
from contraflow.lipschitz import Certificate, shared_scales
from contraflow.lipschitz.certificate import certify_contraction
from contraflow.logdet import EVALUATION, AdaptiveRoulette, Exact, LogDetEstimator, RussianRoulette
from contraflow.numerics import FixedPointSolver, fixed_means, two_stage_means

_OF_A_BASE = ("event_shape", "anchor", "log_prob", "sample")


@dataclass(frozen=True)
class LogProbEstimate:
    """log p(x) of some samples, each with its standard error.

    Attributes:
        value: mean of independent estimates in nats, ``(batch,)``, float64; unbiased where the estimator is.
        standard_error: of that mean, in nats; NaN where it is a single estimate.
        probes: how many independent estimates (probe, truncation and dequantisation noise) the mean is over.
        reached: whether the standard error is at most the target; all true without a target.
        degrees_of_freedom: of the variance behind the standard error, for Student's t.
        class_probabilities: p(y|x) of a flow that classifies, the mean over the same draws (and a pilot's),
            ``(batch, classes)``, float64; ``None`` of others.
    """

    value: Tensor
    standard_error: Tensor
    probes: Tensor
    reached: Tensor
    degrees_of_freedom: Tensor
    class_probabilities: Tensor | None = None

    def interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of Student's confidence interval for log p(x), each ``(batch,)``.

        Raises:
            ConfigurationError: scipy, which has Student's t, is not installed.
        """
        try:
            from scipy.stats import t
        except ImportError:
            raise ConfigurationError("intervals need the extra: pip install 'contraflow[intervals]'.") from None

        quantile = torch.as_tensor(t.ppf(0.5 + confidence / 2, self.degrees_of_freedom.numpy()))
        return self.value - quantile * self.standard_error, self.value + quantile * self.standard_error


class Flow(nn.Module):
    r"""A density on data: a base distribution, a bijection, and the preprocessing that comes before it.

    log p(x) = log p_Z(z) + log|det ∂f/∂x|,  z = f(x): docs/maths/change-of-variables.md. It is the density of the
    data *as given*: preprocessing (dequantisation, scaling, logit) is part of f and brings its own log-determinant.

    The flow computes in the dtype of its weights, float32 or float64, and takes data in either, or integers. A
    preprocessing that scales (`Bijection.in_float64`) sees all digits of the data, and what it gives is cast: seconds
    since 1970 keep their spread in a float32 flow, and come back from it, as samples do, in float64.
    float16 and bfloat16, as data, as weights or by autocast, are refused with a `DomainError`, by `certify` and
    `update_lipschitz` too: docs/choosing.md.

    A batch may have any number of dimensions, as in `torch.distributions`: x ``(*batch, *event_shape)`` gives
    ``(*batch,)``, one x a scalar tensor. A context has the same batch, or is one row for all.

    Args:
        event_shape: shape of one x, for instance ``(2,)`` or ``(1, 28, 28)``.
        bijection: f after the preprocessing.
        base: p_Z; a standard normal of the latent's shape when not given. A distribution of `torch.distributions` is
            taken as a fixed one, in the dtype of the bijection: `contraflow.distributions.GivenDistribution`.
        preprocessing: a bijection from the data as given; identity when not given.
        context_shape: shape of the context of one x, where bijection or base are conditional; without it a context
            is refused.

    Raises:
        ConfigurationError: a base that is none, or that is no density on as many numbers as x has.

    >>> import torch, contraflow
    >>> flow = contraflow.Flow((2,), contraflow.Chain([contraflow.bijections.ActNorm(2)]))
    >>> flow.log_prob(torch.randn(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        bijection: Bijection,
        base: StandardNormal | ClassNormal | Distribution | None = None,
        preprocessing: Bijection | None = None,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.bijection = bijection
        self.preprocessing = preprocessing if preprocessing is not None else Chain([])
        self.base: StandardNormal | ClassNormal | GivenDistribution = self._as_base(base)

    def _as_base(
        self, base: StandardNormal | ClassNormal | Distribution | None
    ) -> StandardNormal | ClassNormal | GivenDistribution:
        if base is None:
            return StandardNormal(self.event_shape)
        found = GivenDistribution(base) if isinstance(base, Distribution) else base
        if not isinstance(found, nn.Module) or not all(hasattr(found, name) for name in _OF_A_BASE):
            raise ConfigurationError(
                f"base {base!r} is no base: give a distribution of torch.distributions, or a module with "
                f"{', '.join(_OF_A_BASE)} like contraflow.distributions.StandardNormal's."
            )
        if math.prod(found.event_shape) != self.dimensions:
            raise ConfigurationError(
                f"base {base} is over events of shape {tuple(found.event_shape)}, and x has shape {self.event_shape}: "
                "a bijection keeps the number of dimensions."
            )
        weights = next(self.parameters(), None)
        return found.to(weights) if weights is not None and isinstance(found, GivenDistribution) else found

    @property
    def dimensions(self) -> int:
        """D, the number of numbers in one x."""
        return math.prod(self.event_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that the flow computes in."""
        return self.base.anchor.dtype

    @property
    def device(self) -> torch.device:
        """Where the flow lives."""
        return self.base.anchor.device

    @property
    def estimator_name(self) -> str:
        """How the log-determinants are had, for reports: the estimators in use, or that they are exact."""
        maps = [one for one in self.modules() if isinstance(one, Bijection)]
        names = dict.fromkeys(one.estimator_name for one in maps if one.estimator_name is not None)
        return "; ".join(names) or str(Exact())

    def with_logdet(self, logdet: LogDetEstimator) -> Flow:
        """This flow with another log-determinant estimator, sharing all parameters.

        >>> from contraflow import EVALUATION, residual_flow
        >>> flow = residual_flow((2,), blocks=2, hidden=(16,))
        >>> evaluation_flow = flow.with_logdet(EVALUATION)
        """
        return with_logdet(self, logdet)

    def with_inverse(self, solver: FixedPointSolver) -> Flow:
        """This flow with another solver in its residual blocks, sharing all parameters."""
        return with_inverse(self, solver)

    def certify(self) -> Certificate:
        r"""What is proved about invertibility: the certified Lipschitz bound of every residual block and layer.

        Norms of the weights in use are bounded from above in float64 and multiplied with the activations' constants:
        docs/maths/lipschitz-bounds.md. A g whose bound its author asserts (`ModuleContraction`) is listed as
        uncertified. Nothing about the flow changes; `contraflow.rescale_to_certificate` scales layers above their
        bound down.

        Raises:
            DomainError: weights in half precision, or under autocast.

        >>> from contraflow import residual_flow
        >>> certificate = residual_flow((2,), blocks=2, hidden=(16,)).certify()
        >>> certificate.invertible, len(certificate.blocks)
        (True, 2)
        """
        blocks = [(name, one) for name, one in self.named_modules() if isinstance(one, ResidualBlock)]
        with shared_scales(self):
            return Certificate(tuple(certify_contraction(name, one.g) for name, one in blocks))

    def _enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        """x and its context as rows, and the shape of their batch."""
        in_float64 = self.preprocessing.in_float64
        rows = accept(x, self.event_shape, (*FLOATS, *INTEGERS), self.dtype, in_float64=in_float64)
        batch = x.shape[: x.ndim - len(self.event_shape)]
        return rows, accept_context(context, self.context_shape, batch, self.dtype), batch

    def _preprocess(self, rows: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Preprocessed rows in the dtype that the flow computes in, and their log-determinant."""
        h, logdet = self.preprocessing.forward_and_logdet(rows, context, generator=generator)
        return narrow(h, self.dtype), logdet.to(self.dtype)

    def _restore(self, h: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        """The data that `_preprocess` gives h for."""
        h = h.double() if self.preprocessing.in_float64 else h
        return self.preprocessing.inverse(h, context, generator=generator)

    def _encode(self, rows: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """`forward_and_logdet` of rows."""
        h, first = self._preprocess(rows, context, generator)
        with shared_scales(self):
            z, second = self.bijection.forward_and_logdet(h, context, generator=generator)
        return z, first + second

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = f(x) and log|det ∂f/∂x| in nats, preprocessing included."""
        rows, context, batch = self._enter(x, context)
        z, logdet = self._encode(rows, context, generator)
        return in_batch(z, batch), in_batch(logdet, batch)

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z = f(x)."""
        rows, context, batch = self._enter(x, context)
        h, _ = self._preprocess(rows, context, generator)
        with shared_scales(self):
            return in_batch(self.bijection(h, context, generator=generator), batch)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x = f⁻¹(z), differentiable.

        Raises:
            ShapeError, DomainError: z has another shape, is no floating-point tensor, or is not finite.
            ConfigurationError, ShapeError, DomainError: a context that the flow cannot use.
            InversionError: a residual block did not reach its tolerance; the message names it.
        """
        rows, context, batch = self._enter_latent(z, context)
        try:
            with shared_scales(self):
                x = self.bijection.inverse(rows, context, generator=generator)
        except InversionError as error:
            names = [name for name, module in self.named_modules() if module is error.block]
            raise InversionError(f"{names[0] if names else 'a block'}: {error}") from error
        return in_batch(self._restore(x, context, generator), batch)

    def _enter_latent(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        rows = accept(z, self.base.event_shape, FLOATS, self.dtype)
        batch = z.shape[: z.ndim - len(self.base.event_shape)]
        return rows, accept_context(context, self.context_shape, batch, self.dtype), batch

    def invert(self, z: Tensor, context: Tensor | None = None) -> InverseSolution:
        """`inverse` without gradients, with every block's evaluations and error bound, and one on the error of x.

        The reports of blocks are row by row, whatever the shape of the batch.

        >>> from contraflow import residual_flow
        >>> found = residual_flow((2,), blocks=2, hidden=(16,), actnorm=False).invert(torch.zeros(3, 2))
        >>> len(found.blocks), found.error_bound.shape
        (2, torch.Size([3]))
        """
        rows, context, batch = self._enter_latent(z, context)
        found = invert(self, Chain([self.preprocessing, self.bijection]), rows, context)
        return replace(found, value=in_batch(found.value, batch), error_bound=in_batch(found.error_bound, batch))

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """log p(x) in nats, ``(*batch,)``; an unbiased estimate under a roulette estimator. log p(x|c) with a context.

        It is -inf where log p(x) lies below the range of the dtype (in float32 for values beyond about 1e19), and NaN
        where a number on the way overflows, which `log_prob_estimate` refuses.

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels as given.
            context: c, ``(*batch, *context_shape)``, or one row for all; where the flow takes one, it is needed.
            generator: source of probes, truncations and dequantisation noise.

        Raises:
            ShapeError, DomainError: x or the context has another shape, or is not finite or out of range.
            ConfigurationError: the flow takes no context, and one was given.
        """
        rows, context, batch = self._enter(x, context)
        z, logdet = self._encode(rows, context, generator)
        return in_batch(self.base.log_prob(z, context) + logdet, batch)

    @torch.no_grad()
    def log_prob_estimate(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        target_error: float | None = None,
        probes: int | None = None,
        budget: int = 1000,
        estimator: LogDetEstimator = EVALUATION,
        batch_size: int | None = None,
        generator: Generator | None = None,
    ) -> LogProbEstimate:
        """log p(x) in nats with its standard error, sample by sample, without gradients.

        Either a given number of independent estimates of every sample, or as many as its own noise asks for: 16 fix
        how many fresh ones make the standard error at most `target_error`, and those alone make the value
        (docs/maths/log-density-error-bar.md). Samples that have theirs leave the batch.

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels, whose dequantisation noise is averaged too.
            context: as for `log_prob`.
            target_error: wanted standard error of every sample in nats.
            probes: number of estimates instead of a target; 16 when neither is given.
            budget: most estimates of a sample under a target, those of the pilot included; at least 20.
            estimator: of the log-determinants, with independent draws (a stratified roulette is made independent).
            batch_size: estimates at once; as many as there are samples, and at least 256, when not given.
            generator: source of all noise.

        Raises:
            ConfigurationError: both a target and a number of probes, or one that cannot be; a context as for
                `log_prob`.
            ShapeError, DomainError: as for `log_prob`; DomainError also where an estimate is NaN.

        >>> from contraflow import residual_flow
        >>> flow = residual_flow((2,), blocks=2, hidden=(16,))
        >>> estimate = flow.log_prob_estimate(torch.zeros(3, 2), target_error=0.05)
        >>> estimate.reached.all().item(), (estimate.standard_error <= 0.05).all().item()
        (True, True)
        """
        _check_precision(target_error, probes, budget, batch_size)
        if isinstance(estimator, (RussianRoulette, AdaptiveRoulette)):
            estimator = replace(estimator, stratified=False)
        flow = self.with_logdet(estimator)
        x, batch = as_rows(x, self.event_shape)
        context = self._rows_given(context, batch)
        at_once = batch_size or max(len(x), 256)

        drawn: list[tuple[Tensor, Tensor]] = []

        def draw(rows: Tensor) -> Tensor:
            here = rows.to(x.device)
            chosen = None if context is None else context[here]
            log_prob, classes = flow._log_prob_and_classes(x[here], chosen, generator)
            if classes is not None:
                drawn.append((rows, classes.double().cpu()))
            return log_prob

        if target_error is None:
            found = fixed_means(draw, len(x), probes or 16, at_once)
            reached = torch.ones(len(x), dtype=torch.bool)
        else:
            found = two_stage_means(draw, len(x), target_error, budget, at_once)
            reached = found.standard_error <= target_error
        if bool((bad := found.value.isnan()).any()):
            raise DomainError(
                f"log p(x) of {named(bad)} is NaN: a number overflowed {self.dtype} on the way. Rescale or drop such "
                "samples, or compute with flow.double()."
            )
        classes = _means_by_row(drawn, len(x)) if drawn else None
        estimate = LogProbEstimate(
            found.value, found.standard_error, found.draws, reached, found.degrees_of_freedom, classes
        )
        given = {name: one for name, one in vars(estimate).items() if one is not None}
        return LogProbEstimate(**{name: in_batch(one, batch) for name, one in given.items()})

    def _rows_given(self, context: Tensor | None, batch: torch.Size) -> Tensor | None:
        """What `_log_prob_and_classes` is given besides x, a row for every row of x."""
        return accept_context(context, self.context_shape, batch, self.dtype)

    def _log_prob_and_classes(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """`log_prob`, and where the flow classifies p(y|x) ``(batch, classes)``, of one pass."""
        return self.log_prob(x, context, generator=generator), None

    def bits_per_dim(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        r"""-log p(x) / (D ln 2), ``(*batch,)``."""
        return -self.log_prob(x, context, generator=generator) / (self.dimensions * math.log(2))

    def rsample(
        self,
        n: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """n samples as `sample` draws them, with gradients to the parameters, by implicit differentiation.

        Images come as real numbers before quantisation.

        Args:
            n, context, temperature: as for `sample`.

        Raises:
            ConfigurationError, ShapeError, DomainError: as for `sample`.
        """
        batch = sample_shape(n, temperature)
        rows = accept_context(context, self.context_shape, batch, self.dtype)
        z = self.base.sample(batch.numel(), rows, temperature=temperature, generator=generator)
        return in_batch(self.inverse(z, rows, generator=generator), batch)

    @torch.no_grad()
    def sample(
        self,
        n: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """n samples as data look: images as integer levels (uint8), others as real numbers, dequantised columns whole.

        Args:
            n: number of samples, for ``(n, *event_shape)``, or the shape of their batch as in `torch.distributions`;
                without it one sample ``(*event_shape,)``.
            context: one row for each sample, ``(*batch, *context_shape)``, or one row for all.
            temperature: factor on the standard deviation of the base; below 1 it favours likelier samples.

        Raises:
            ConfigurationError: n is no whole number or shape, n or the temperature is negative, or the temperature
                not finite; a context for a flow that takes none.
            ShapeError, DomainError: a context that is missing or as for `log_prob`, or for another number of samples.
        """
        return self.preprocessing.quantise(self.rsample(n, context, temperature=temperature, generator=generator))


def _means_by_row(drawn: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """Means ``(n, classes)`` of vectors drawn for rows, which repeat."""
    rows, vectors = (torch.cat(one) for one in zip(*drawn, strict=True))
    total = vectors.new_zeros(n, vectors.shape[1]).index_add(0, rows, vectors)
    return total / rows.bincount(minlength=n)[:, None]


def _check_precision(target_error: float | None, probes: int | None, budget: int, batch_size: int | None) -> None:
    if target_error is not None and probes is not None:
        raise ConfigurationError(
            f"target_error={target_error} and probes={probes}: give one; a target finds its own number of probes."
        )
    if target_error is not None and not target_error > 0:
        raise ConfigurationError(f"target_error={target_error}: it must be positive, in nats.")
    if probes is not None and probes < 1:
        raise ConfigurationError(f"probes={probes}: it must be at least 1.")
    if target_error is not None and budget < 20:
        raise ConfigurationError(f"budget={budget}: it must be at least 20, 16 for the pilot and 4 for the value.")
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size}: it must be at least 1.")
