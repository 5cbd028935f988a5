"""The density of a flow: log p(x) = log p_Z(f(x)) + log|det J_f(x)|, sampled by x = f⁻¹(z), z ~ p_Z."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from contraflow.bijections import Bijection, Chain, ContractionBlock, InverseSolution, invert, with_inverse, with_logdet
from contraflow.distributions import BaseDistribution, StandardNormal, TorchDistribution
from contraflow.errors import ConfigurationError, DomainError, InversionError
from contraflow.flow.log_prob_estimate import LogProbEstimate, average
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
from contraflow.numerics import FixedPointSolver


class Flow(nn.Module):
    r"""A probability density on data, made of preprocessing, a bijection and a base distribution.

        log p(x) = log p_Z(z) + log|det ∂f/∂x|,  z = f(x):  docs/maths/change-of-variables.md.

    This is the density of the data *as given*: f includes the preprocessing (dequantisation, scaling, logit), whose
    log-determinant is part of the sum.

    The flow computes in the dtype of its weights, float32 or float64. Data may be float32, float64 or integers.
    Preprocessing that scales (`Bijection.in_float64`) receives all digits of the data and its output is cast to the
    dtype of the weights, so timestamps in seconds since 1970 keep their spread in a float32 flow. Samples of such a
    flow are float64. Half precision (float16 and bfloat16), whether in data, weights or autocast, raises a
    `DomainError`, also from `certify` and `update_lipschitz`: docs/choosing.md.

    A batch may have any number of dimensions, as in `torch.distributions`: for x ``(*batch, *event_shape)``, log p(x)
    is ``(*batch,)``. A context has the same batch shape, or is one row for all samples.

    Args:
        event_shape: shape of one x, for instance ``(2,)`` or ``(1, 28, 28)``.
        bijection: f after the preprocessing.
        base: p_Z; by default a standard normal on events of `event_shape`. A distribution of `torch.distributions` is
            wrapped in a `contraflow.distributions.TorchDistribution` of the bijection's dtype and is not trained.
        preprocessing: a bijection applied to the data first; by default the identity.
        context_shape: shape of the context of one x, for a conditional bijection or base; by default the flow refuses
            a context.

    Raises:
        ConfigurationError: the base is not a base distribution, or has another number of dimensions than x.

    >>> import torch, contraflow
    >>> flow = contraflow.Flow((2,), contraflow.Chain([contraflow.bijections.ActNorm(2)]))
    >>> flow.log_prob(torch.randn(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        bijection: Bijection,
        base: BaseDistribution | Distribution | None = None,
        preprocessing: Bijection | None = None,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.bijection = bijection
        self.preprocessing = preprocessing if preprocessing is not None else Chain([])
        self.base = self._base_distribution(base)

    def _base_distribution(self, base: BaseDistribution | Distribution | None) -> BaseDistribution:
        """The base as a module, checked against the shape of x."""
        if base is None:
            return StandardNormal(self.event_shape)
        if isinstance(base, Distribution):
            base = TorchDistribution(base)
        if not isinstance(base, BaseDistribution):
            raise ConfigurationError(
                f"{base!r} is not a base distribution: give a distribution of torch.distributions, or a module that "
                "inherits from contraflow.distributions.BaseDistribution."
            )
        if math.prod(base.event_shape) != self.dimensions:
            raise ConfigurationError(
                f"the base {base} has events of shape {tuple(base.event_shape)}, but x has shape {self.event_shape}: "
                "a bijection keeps the number of dimensions."
            )
        weights = next(self.parameters(), None)
        return base.to(weights) if weights is not None and isinstance(base, TorchDistribution) else base

    @property
    def dimensions(self) -> int:
        """D, the number of dimensions of x."""
        return math.prod(self.event_shape)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point dtype in which the flow computes."""
        return self.base.anchor.dtype

    @property
    def device(self) -> torch.device:
        """The device on which the flow computes."""
        return self.base.anchor.device

    @property
    def estimator_name(self) -> str:
        """How log-determinants are computed, for reports: the names of the estimators, or that they are exact."""
        bijections = [module for module in self.modules() if isinstance(module, Bijection)]
        names = dict.fromkeys(bijection.estimator_name for bijection in bijections)
        return "; ".join(name for name in names if name is not None) or str(Exact())

    def with_logdet(self, logdet: LogDetEstimator) -> Flow:
        """A flow with another log-determinant estimator that shares all parameters with this one.

        >>> from contraflow import EVALUATION, residual_flow
        >>> flow = residual_flow((2,), blocks=2, hidden=(16,))
        >>> evaluation_flow = flow.with_logdet(EVALUATION)
        """
        return with_logdet(self, logdet)

    def with_inverse(self, solver: FixedPointSolver) -> Flow:
        """A flow with another fixed-point solver in its residual blocks that shares all parameters with this one."""
        return with_inverse(self, solver)

    def certify(self) -> Certificate:
        r"""Prove upper bounds on the Lipschitz constants of all residual blocks and layers.

        The norms of the weights in use are bounded from above in float64 and multiplied by the activations' Lipschitz
        constants: docs/maths/lipschitz-bounds.md. A g whose bound is only asserted (`ModuleContraction`) is listed as
        uncertified. The flow is not changed; `contraflow.rescale_to_certificate` scales down the layers that exceed
        their bound.

        Raises:
            DomainError: the weights are in half precision, or autocast is on.

        >>> from contraflow import residual_flow
        >>> certificate = residual_flow((2,), blocks=2, hidden=(16,)).certify()
        >>> certificate.invertible, len(certificate.blocks)
        (True, 2)
        """
        blocks = [(name, module) for name, module in self.named_modules() if isinstance(module, ContractionBlock)]
        with shared_scales(self):
            return Certificate(tuple(certify_contraction(name, block.g) for name, block in blocks))

    def _enter(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        """x and its context as rows, and the shape of their batch."""
        in_float64 = self.preprocessing.in_float64
        rows = accept(x, self.event_shape, (*FLOATS, *INTEGERS), self.dtype, in_float64=in_float64)
        batch = x.shape[: x.ndim - len(self.event_shape)]
        return rows, accept_context(context, self.context_shape, batch, self.dtype), batch

    def _preprocess(self, rows: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """The preprocessed rows in the dtype of the flow, and the log-determinant of the preprocessing."""
        h, logdet = self.preprocessing.forward_and_logdet(rows, context, generator=generator)
        return narrow(h, self.dtype), logdet.to(self.dtype)

    def _restore(self, h: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        """The data of which h is the preprocessed form."""
        h = h.double() if self.preprocessing.in_float64 else h
        return self.preprocessing.inverse(h, context, generator=generator)

    def _encode(self, rows: Tensor, context: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """`forward_and_logdet` of rows."""
        h, preprocessing_logdet = self._preprocess(rows, context, generator)
        with self._evaluation():
            z, logdet = self.bijection.forward_and_logdet(h, context, generator=generator)
        return z, preprocessing_logdet + logdet

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Compute the scales of all weights once, and name the block whose fixed point was not reached."""
        try:
            with shared_scales(self):
                yield
        except InversionError as error:
            names = [name for name, module in self.named_modules() if module is error.block]
            raise InversionError(f"{names[0] if names else 'a block'}: {error}") from error

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = f(x) and log|det ∂f/∂x| in nats, including the preprocessing."""
        rows, context, batch = self._enter(x, context)
        z, logdet = self._encode(rows, context, generator)
        return in_batch(z, batch), in_batch(logdet, batch)

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """z = f(x)."""
        rows, context, batch = self._enter(x, context)
        h, _ = self._preprocess(rows, context, generator)
        with self._evaluation():
            return in_batch(self.bijection(h, context, generator=generator), batch)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """x = f⁻¹(z), differentiable.

        Raises:
            ShapeError, DomainError: z has the wrong shape, is not a floating-point tensor, or is not finite.
            ConfigurationError, ShapeError, DomainError: the flow cannot use the context.
            InversionError: a residual block did not reach its tolerance; the message names the block.
        """
        rows, context, batch = self._enter_latent(z, context)
        with self._evaluation():
            x = self.bijection.inverse(rows, context, generator=generator)
        return in_batch(self._restore(x, context, generator), batch)

    def _enter_latent(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        rows = accept(z, self.base.event_shape, FLOATS, self.dtype)
        batch = z.shape[: z.ndim - len(self.base.event_shape)]
        return rows, accept_context(context, self.context_shape, batch, self.dtype), batch

    def invert(self, z: Tensor, context: Tensor | None = None) -> InverseSolution:
        """`inverse` without gradients, with a bound on the error of x and a report for every residual block.
        The blocks' reports are flat, ``(rows,)``, for every shape of the batch.

        >>> from contraflow import residual_flow
        >>> solution = residual_flow((2,), blocks=2, hidden=(16,), actnorm=False).invert(torch.zeros(3, 2))
        >>> len(solution.blocks), solution.error_bound.shape
        (2, torch.Size([3]))
        """
        rows, context, batch = self._enter_latent(z, context)
        solution = invert(self, Chain([self.preprocessing, self.bijection]), rows, context)
        return replace(
            solution, value=in_batch(solution.value, batch), error_bound=in_batch(solution.error_bound, batch)
        )

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """log p(x), or log p(x|c) with a context, in nats, ``(*batch,)``; an unbiased estimate under Russian roulette.

        The result is -inf where log p(x) lies below the range of the dtype (in float32 for values beyond about 1e19),
        and NaN where an intermediate number overflows; `log_prob_estimate` raises an error for NaN.

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels as given.
            context: c, ``(*batch, *context_shape)``, or one row for all samples; required by a conditional flow.
            generator: source of probes, truncations and dequantisation noise.

        Raises:
            ShapeError, DomainError: x or the context has the wrong shape, is not finite or is out of range.
            ConfigurationError: a context was given to a flow that takes none.
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
        """log p(x) in nats with the standard error of each sample, without gradients.

        The value is the mean of independent estimates. Their number is either fixed by `probes`, or chosen for each
        sample by a pilot of 16 estimates such that the standard error is at most `target_error`; the estimates of the
        pilot are not part of the mean (docs/maths/log-density-error-bar.md).

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels, whose dequantisation noise is averaged too.
            context: as for `log_prob`.
            target_error: largest standard error of each sample in nats.
            probes: number of estimates of each sample, instead of a target; by default 16.
            budget: largest number of estimates of one sample under a target, the pilot included; at least 20.
            estimator: of the log-determinants. Its draws are independent here, also those of a stratified roulette.
            batch_size: number of estimates computed at once; by default the number of samples, but at least 256.
            generator: source of all noise.

        Raises:
            ConfigurationError: both a target and a number of probes are given, or a number is out of range, or as for
                `log_prob`.
            ShapeError, DomainError: as for `log_prob`; DomainError also where an estimate is NaN.

        >>> from contraflow import residual_flow
        >>> flow = residual_flow((2,), blocks=2, hidden=(16,))
        >>> estimate = flow.log_prob_estimate(torch.zeros(3, 2), target_error=0.05)
        >>> estimate.reached.all().item(), (estimate.standard_error <= 0.05).all().item()
        (True, True)
        """
        if isinstance(estimator, (RussianRoulette, AdaptiveRoulette)):
            estimator = replace(estimator, stratified=False)
        flow = self.with_logdet(estimator)
        x, batch = as_rows(x, self.event_shape)
        context = self._context_rows(context, batch)

        def draw(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            rows = rows.to(x.device)
            return flow._log_prob_and_classes(x[rows], None if context is None else context[rows], generator)

        estimate = average(draw, len(x), target_error, probes, budget, batch_size)
        if bool((overflowed := estimate.value.isnan()).any()):
            raise DomainError(
                f"log p(x) of {named(overflowed)} is NaN: an intermediate number is beyond the range of {self.dtype}. "
                "Rescale or drop such samples, or compute with flow.double()."
            )
        return estimate.in_batch(batch)

    def _context_rows(self, context: Tensor | None, batch: torch.Size) -> Tensor | None:
        """The context of every row of a batch; a flow that classifies takes labels in its place."""
        return accept_context(context, self.context_shape, batch, self.dtype)

    def _log_prob_and_classes(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """`log_prob` of rows and, from the same pass, p(y|x) ``(rows, classes)`` if the flow classifies."""
        return self.log_prob(x, context, generator=generator), None

    def bits_per_dim(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        r"""Negative log-density in bits per dimension, -log p(x) / (D ln 2), ``(*batch,)``."""
        return -self.log_prob(x, context, generator=generator) / (self.dimensions * math.log(2))

    def rsample(
        self,
        n: int | Sequence[int] = (),
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """n samples, not rounded to integers, with gradients to the parameters by implicit differentiation.

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
        """n samples in the form of the data: images as integer levels (uint8), dequantised columns as whole numbers.

        Args:
            n: number of samples, for ``(n, *event_shape)``, or the shape of their batch as in `torch.distributions`;
                by default one sample ``(*event_shape,)``.
            context: one row for each sample, ``(*batch, *context_shape)``, or one row for all.
            temperature: factor on the standard deviation of the base; values below 1 give likelier samples.

        Raises:
            ConfigurationError: n is neither a whole number nor a shape, n or the temperature is negative, the
                temperature is not finite, or a context was given to a flow that takes none.
            ShapeError, DomainError: the context is missing, has the wrong number of rows, or as for `log_prob`.
        """
        return self.preprocessing.quantise(self.rsample(n, context, temperature=temperature, generator=generator))
