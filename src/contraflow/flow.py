"""log p(x) = log p_Z(f(x)) + log|det J_f(x)|;  x = f⁻¹(z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections import Bijection, Chain, Inversion, ResidualBlock, invert, with_inverse, with_logdet
from contraflow.distributions import ClassNormal, StandardNormal
from contraflow.errors import ConfigurationError, DomainError, InversionError
from contraflow.inputs import FLOATS, INTEGERS, accept, named, narrow
from contraflow.lipschitz import Certificate, shared_scales
from contraflow.lipschitz.certification import certify_contraction
from contraflow.logdet import EVALUATION, AdaptiveRoulette, Exact, LogDetEstimator, RussianRoulette
from contraflow.numerics import FixedPointSolver, fixed_means, two_stage_means


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
        """Lower and upper end of Student's confidence interval for log p(x), each ``(batch,)``."""
        from scipy.stats import t

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

    Args:
        event_shape: shape of one x, for instance ``(2,)`` or ``(1, 28, 28)``.
        bijection: f after the preprocessing.
        base: p_Z; a standard normal of the latent's shape when not given.
        preprocessing: a bijection from the data as given; identity when not given.

    >>> import torch, contraflow
    >>> flow = contraflow.Flow((2,), contraflow.Chain([contraflow.ActNorm(2)]))
    >>> flow.log_prob(torch.randn(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        bijection: Bijection,
        base: StandardNormal | ClassNormal | None = None,
        preprocessing: Bijection | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.bijection = bijection
        self.base: StandardNormal | ClassNormal = base if base is not None else StandardNormal(self.event_shape)
        self.preprocessing = preprocessing if preprocessing is not None else Chain([])

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
        docs/maths/lipschitz-bounds.md. A g whose bound is its author's claim (`ModuleContraction`) is listed as
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
        return Certificate(tuple(certify_contraction(name, one.g) for name, one in blocks))

    def _preprocess(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        x = accept(x, self.event_shape, (*FLOATS, *INTEGERS), self.dtype, in_float64=self.preprocessing.in_float64)
        y, logdet = self.preprocessing.forward_and_logdet(x, context, generator=generator)
        return narrow(y, self.dtype), logdet.to(self.dtype)

    def _restore(self, y: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        """The data that `_preprocess` gives y for."""
        y = y.double() if self.preprocessing.in_float64 else y
        return self.preprocessing.inverse(y, context, generator=generator)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = f(x) and log|det ∂f/∂x| in nats, preprocessing included."""
        x, first = self._preprocess(x, context, generator)
        with shared_scales(self):
            z, second = self.bijection.forward_and_logdet(x, context, generator=generator)
        return z, first + second

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z = f(x)."""
        x, _ = self._preprocess(x, context, generator)
        with shared_scales(self):
            return self.bijection(x, context, generator=generator)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x = f⁻¹(z), differentiable.

        Raises:
            ShapeError, DomainError: z has another shape, is no floating-point tensor, or is not finite.
            InversionError: a residual block did not reach its tolerance; the message names it.
        """
        z = accept(z, self.base.event_shape, FLOATS, self.dtype)
        try:
            with shared_scales(self):
                x = self.bijection.inverse(z, context, generator=generator)
        except InversionError as error:
            names = [name for name, module in self.named_modules() if module is error.block]
            raise InversionError(f"{names[0] if names else 'a block'}: {error}") from error
        return self._restore(x, context, generator)

    def invert(self, z: Tensor, context: Tensor | None = None) -> Inversion:
        """`inverse` without gradients, with every block's evaluations and error bound, and one on the error of x.

        >>> from contraflow import residual_flow
        >>> found = residual_flow((2,), blocks=2, hidden=(16,)).invert(torch.zeros(3, 2))
        >>> len(found.blocks), found.error_bound.shape
        (2, torch.Size([3]))
        """
        return invert(self, Chain([self.preprocessing, self.bijection]), z, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """log p(x) in nats, ``(batch,)``; an unbiased estimate under a roulette estimator.

        It is -inf where log p(x) lies below the range of the dtype (in float32 for values beyond about 1e19), and NaN
        where a number on the way overflows, which `log_prob_estimate` refuses.

        Args:
            x: ``(batch, *event_shape)``; for images the integer levels as given.
            context: reserved for conditional flows.
            generator: source of probes, truncations and dequantisation noise.

        Raises:
            ShapeError, DomainError: x has another shape, or is not finite or out of range.
        """
        z, logdet = self.forward_and_logdet(x, context, generator=generator)
        return self.base.log_prob(z, context) + logdet

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
            x: ``(batch, *event_shape)``; for images the integer levels, whose dequantisation noise is averaged too.
            context: reserved for conditional flows.
            target_error: wanted standard error of every sample in nats.
            probes: number of estimates instead of a target; 16 when neither is given.
            budget: most estimates of a sample under a target, those of the pilot included; at least 20.
            estimator: of the log-determinants, with independent draws (a stratified roulette is made independent).
            batch_size: estimates at once; as many as there are samples, and at least 256, when not given.
            generator: source of all noise.

        Raises:
            ConfigurationError: both a target and a number of probes, or one that cannot be.
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
        return LogProbEstimate(
            found.value, found.standard_error, found.draws, reached, found.degrees_of_freedom, classes
        )

    def _log_prob_and_classes(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """`log_prob`, and where the flow classifies p(y|x) ``(batch, classes)``, of one pass."""
        return self.log_prob(x, context, generator=generator), None

    def bits_per_dim(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        r"""-log p(x) / (D ln 2), ``(batch,)``."""
        return -self.log_prob(x, context, generator=generator) / (self.dimensions * math.log(2))

    def rsample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples ``(n, *event_shape)`` with gradients to the parameters, by implicit differentiation.

        Images come as real numbers before quantisation.

        Raises:
            ConfigurationError: n or the temperature is negative, or the temperature not finite.
        """
        if n < 0 or not 0 <= temperature < math.inf:
            raise ConfigurationError(f"n={n}, temperature={temperature}: neither can be negative or infinite.")
        z = self.base.sample(n, context, temperature=temperature, generator=generator)
        return self.inverse(z, context, generator=generator)

    @torch.no_grad()
    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples as data look: images as integer levels (uint8), others as real numbers, dequantised columns whole.

        Args:
            n: number of samples.
            temperature: factor on the standard deviation of the base; below 1 it favours likelier samples.
        """
        x = self.rsample(n, context, temperature=temperature, generator=generator)
        quantise = getattr(self.preprocessing, "quantise", None)
        return x if quantise is None else quantise(x)


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
