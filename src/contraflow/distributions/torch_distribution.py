"""Distributions of torch.distributions as base distributions."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Transform, VonMises
from torch.distributions.constraints import Constraint

from contraflow.distributions.base import BaseDistribution
from contraflow.errors import ConfigurationError


class TorchDistribution(BaseDistribution):
    r"""A fixed distribution of `torch.distributions`, or of another library with the same interface.

    The density is zero outside the support. The distribution is copied and its tensors become buffers, which follow
    ``to`` and ``double`` and are part of ``state_dict``, so that a checkpoint with another base does not load. They
    are not trained.

    Args:
        distribution: a continuous distribution without batch dimensions; ``Independent(distribution, k)`` turns k batch
            dimensions into event dimensions.

    Raises:
        ConfigurationError: the distribution has batch dimensions, is discrete, lies on a surface (a simplex, a circle,
            symmetric matrices), or holds tensors that require gradients.

    >>> from torch.distributions import Independent, Uniform
    >>> base = TorchDistribution(Independent(Uniform(-torch.ones(2), torch.ones(2)), 1))
    >>> base.log_prob(torch.tensor([[0.0, 0.5], [0.0, 2.0]]))
    tensor([-1.3863,    -inf])
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        _check(distribution)
        self.event_shape = tuple(distribution.event_shape)
        self.distribution = copy.deepcopy(distribution)
        self.register_buffer("origin", torch.zeros(()), persistent=False)
        self._parts = list(_parts(self.distribution))
        for part in self._parts:
            if isinstance(part, Distribution):
                part._validate_args = False  # validation raises outside the support, where the density is zero
        # Attributes before first use, without the values that torch derives from the tensors and caches later.
        self._attributes = [dict(vars(part)) for part in self._parts]
        for index, attributes in enumerate(self._attributes):
            for name, value in attributes.items():
                if isinstance(value, Tensor):
                    self.register_buffer(f"part{index}_{name}", value.clone())

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z) in nats, ``(batch,)``; -inf outside the support."""
        distribution = self._current()
        log_prob, support = distribution.log_prob(z), _support(distribution)
        return log_prob if support is None else log_prob.where(support.check(z), -torch.inf)

    @torch.no_grad()
    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples ``(n, *event_shape)``.

        `torch.distributions` draws from torch's global generator, so a given generator seeds that one for this call
        alone.

        Raises:
            ConfigurationError: the temperature is not 1; only Gaussian bases have one.
        """
        if temperature != 1:
            raise ConfigurationError(
                f"temperature={temperature}: only a Gaussian base has a temperature, which scales its standard "
                f"deviation, and this base is {self.distribution}. Leave the temperature at 1."
            )
        distribution = self._current()
        if generator is None:
            return distribution.sample((n,))
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        devices = [self.anchor.device] if self.anchor.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            return distribution.sample((n,))

    def _current(self) -> Distribution:
        """The distribution with the current buffers as its tensors."""
        for index, (part, attributes) in enumerate(zip(self._parts, self._attributes, strict=True)):
            part.__dict__ = {
                name: self._buffers.get(f"part{index}_{name}", value) for name, value in attributes.items()
            }
        return self.distribution

    def extra_repr(self) -> str:
        return str(self.distribution)


def _parts(
    whole: Distribution | Transform | list[object] | tuple[object, ...],
) -> Iterator[Distribution | Transform]:
    """A distribution and all distributions and transforms inside it, also those in lists."""
    if isinstance(whole, (Distribution, Transform)):
        yield whole
    for part in whole if isinstance(whole, (list, tuple)) else vars(whole).values():
        if isinstance(part, (Distribution, Transform, list, tuple)):
            yield from _parts(part)


def _support(distribution: Distribution) -> Constraint | None:
    """The set where the density is positive; ``None`` where the distribution does not define it."""
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _check(distribution: Distribution) -> None:
    if distribution.batch_shape:
        raise ConfigurationError(
            f"the base {distribution} has batch shape {tuple(distribution.batch_shape)}, so it is a batch of "
            f"densities: give torch.distributions.Independent(base, {len(distribution.batch_shape)})."
        )
    support = _support(distribution)
    if support is not None and support.is_discrete:
        raise ConfigurationError(f"the base {distribution} is discrete, but a flow needs a density.")
    while isinstance(inner := getattr(support, "base_constraint", None), Constraint):  # of independent dimensions
        support = inner
    on_circle = any(isinstance(part, VonMises) for part in _parts(distribution))
    if on_circle or (support is not None and support.event_dim):
        raise ConfigurationError(
            f"the base {distribution} has its density on a surface ({support}), but a flow needs a density on all "
            "dimensions."
        )
    tensors = [value for part in _parts(distribution) for value in vars(part).values() if isinstance(value, Tensor)]
    if any(tensor.requires_grad for tensor in tensors):
        raise ConfigurationError(
            f"the base {distribution} holds tensors that require gradients, but a base is not trained: detach them, "
            "and let the last layer of the bijection learn a shift and a scale."
        )
