"""Transforms of zuko and of torch.distributions as bijections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Transform

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ConfigurationError, ShapeError


class TransformBijection(Bijection):
    r"""z = t(x | context) for a transform t of zuko or `torch.distributions`, which also computes log|det ∂t/∂x|.

    A lazy transform of zuko is called with the context of each batch, and its parameters become those of the bijection.
    Any other transform ignores the context; its tensors follow neither `.to` nor `state_dict`. Inverses have the
    accuracy of the transform's own inverse. Transforms that draw random numbers (zuko's stochastic traces) use torch's
    global generator.

    Args:
        transform: as for `from_transform`.
        event_shape: shape of one x, and of one z.
    """

    def __init__(self, transform: Transform | nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.transform = transform
        self.event_shape = tuple(event_shape)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._call(self._at(x, context), x)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        transform = self._at(z, context)
        x = transform.inv(z)
        return x, -self._call(transform, x)[1]

    def forward(self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._at(x, context)(x)

    def inverse(self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        return self._at(z, context).inv(z)

    def _at(self, x: Tensor, context: Tensor | None) -> Transform:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ShapeError(f"a transform of events {self.event_shape} got events of shape {tuple(x.shape[1:])}.")
        return self.transform if isinstance(self.transform, Transform) else self.transform(context)

    def _call(self, transform: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
        if not len(x):  # torch's sum over event dimensions fails on an empty batch
            return x, x.new_zeros(0)
        if hasattr(transform, "call_and_ladj"):  # zuko's method for both at once
            z, logdet = transform.call_and_ladj(x)
        else:
            z = transform(x)
            logdet = transform.log_abs_det_jacobian(x, z)
        shape = x.shape[: x.ndim - transform.domain.event_dim]
        logdet = logdet.expand(shape).reshape(len(x), math.prod(shape[1:])).sum(dim=1)
        # zuko's numerical derivatives build a graph even without gradients
        return (z, logdet) if torch.is_grad_enabled() else (z.detach(), logdet.detach())

    def extra_repr(self) -> str:
        plain = f"{self.transform}, " if isinstance(self.transform, Transform) else ""
        return f"{plain}event_shape={self.event_shape}"


def from_transform(transform: Transform | nn.Module, event_shape: Sequence[int]) -> TransformBijection:
    """A bijection made of a transform of zuko or of `torch.distributions`, used as the map from data to latent.

    `Inverse(from_transform(t, shape))` uses the transform as the map from latent to data. Flows of zuko map data to
    latent, as here, so ``Flow((D,), from_transform(zuko_flow.transform, (D,)))`` has the density of a ``zuko_flow``
    with a standard normal base.

    Args:
        transform: a `torch.distributions.Transform`, which transforms of zuko are too, or a module that returns one for
            a context, such as a lazy transform of zuko.
        event_shape: shape of one x; the transform must keep it.

    Raises:
        ConfigurationError: the argument is not a transform, or the transform is not bijective.
        ShapeError: the transform does not accept events of this shape, or changes their shape.

    >>> from torch.distributions import transforms
    >>> stretch = from_transform(transforms.AffineTransform(0.0, 2.0), (3,))
    >>> stretch.forward_and_logdet(torch.ones(1, 3))
    (tensor([[2., 2., 2.]]), tensor([2.0794]))
    """
    if not isinstance(transform, (Transform, nn.Module)):
        raise ConfigurationError(
            f"from_transform takes a transform of torch.distributions or zuko, not a {type(transform).__name__}."
        )
    shape = tuple(event_shape)
    if isinstance(transform, Transform):
        if not transform.bijective:
            raise ConfigurationError(f"{transform} is not bijective, so it has no log-determinant.")
        if transform.domain.event_dim > len(shape):
            raise ShapeError(f"{transform} takes events of {transform.domain.event_dim} dimensions, not {shape}.")
        try:
            result = tuple(transform.forward_shape(shape))
        except ValueError as error:
            raise ShapeError(f"{transform} does not accept events of shape {shape}: {error}.") from error
        if result != shape:
            raise ShapeError(f"{transform} maps events of shape {shape} to {result}; a bijection must keep the shape.")
    return TransformBijection(transform, shape)
