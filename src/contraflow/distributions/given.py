"""A distribution of torch.distributions as base."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Transform, VonMises
from torch.distributions.constraints import Constraint

from contraflow.errors import ConfigurationError


class GivenDistribution(nn.Module):
    r"""p(z) of a distribution of `torch.distributions`, or of another library with the same interface.

    The density is zero outside the support. The distribution is copied, its tensors become buffers: they follow ``to``
    and ``double`` and are part of ``state_dict``, so that a checkpoint of another base is not taken for this one. They
    are not trained.

    Args:
        distribution: continuous, without batch dimensions; ``Independent(distribution, k)`` makes k of them the event.

    Raises:
        ConfigurationError: batch dimensions, a discrete distribution, one on a surface (a simplex, a circle,
            symmetric matrices), or tensors that require gradients.

    >>> from torch.distributions import Independent, Uniform
    >>> base = GivenDistribution(Independent(Uniform(-torch.ones(2), torch.ones(2)), 1))
    >>> base.log_prob(torch.tensor([[0.0, 0.5], [0.0, 2.0]]))
    tensor([-1.3863,    -inf])
    """

    anchor: Tensor

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        _check(distribution)
        self.event_shape = tuple(distribution.event_shape)
        self.distribution = copy.deepcopy(distribution)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        self._parts = list(_parts(self.distribution))
        for part in self._parts:
            if isinstance(part, Distribution):
                part._validate_args = False  # it would raise outside the support, where the density is zero
        # What torch derives and remembers on the way, from tensors that may change, is in none of these.
        self._given = [dict(vars(part)) for part in self._parts]
        for index, given in enumerate(self._given):
            for name, value in given.items():
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
        """n draws ``(n, *event_shape)``.

        `torch.distributions` draws from torch's own generator; one that is given seeds it for this draw alone.

        Raises:
            ConfigurationError: a temperature other than 1, which only a Gaussian base has.
        """
        if temperature != 1:
            raise ConfigurationError(
                f"temperature={temperature}: it is a factor on the standard deviation of a Gaussian base, and this one "
                f"is {self.distribution}. Leave it at 1."
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
        """The distribution with the buffers as they are now in it."""
        for index, (part, given) in enumerate(zip(self._parts, self._given, strict=True)):
            part.__dict__ = {name: self._buffers.get(f"part{index}_{name}", value) for name, value in given.items()}
        return self.distribution

    def extra_repr(self) -> str:
        return str(self.distribution)


def _parts(part: object) -> Iterator[Distribution | Transform]:
    """A distribution and what it is made of: distributions, transforms, lists of either."""
    if isinstance(part, (Distribution, Transform)):
        yield part
    inner = part if isinstance(part, (list, tuple)) else vars(part).values() if hasattr(part, "__dict__") else ()
    for one in inner:
        if isinstance(one, (Distribution, Transform, list, tuple)):
            yield from _parts(one)


def _support(distribution: Distribution) -> Constraint | None:
    """Where the density is not zero; ``None`` where the distribution does not say."""
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _check(distribution: Distribution) -> None:
    if distribution.batch_shape:
        raise ConfigurationError(
            f"base {distribution} has batch shape {tuple(distribution.batch_shape)}, so it is many densities and not "
            f"one: give torch.distributions.Independent(base, {len(distribution.batch_shape)})."
        )
    support = _support(distribution)
    if support is not None and support.is_discrete:
        raise ConfigurationError(f"base {distribution} is discrete, and a flow needs a density.")
    while isinstance(inner := getattr(support, "base_constraint", None), Constraint):  # of independent dimensions
        support = inner
    if (support is not None and support.event_dim) or any(isinstance(one, VonMises) for one in _parts(distribution)):
        raise ConfigurationError(
            f"base {distribution} has its density on a surface ({support}), where a flow needs one on all its "
            "dimensions."
        )
    held = [value for part in _parts(distribution) for value in vars(part).values() if isinstance(value, Tensor)]
    if any(tensor.requires_grad for tensor in held):
        raise ConfigurationError(
            f"base {distribution} holds tensors that require gradients, which would not be trained: detach them, and "
            "let the bijection's last layer learn a shift and a scale."
        )
