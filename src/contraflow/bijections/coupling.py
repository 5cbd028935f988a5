"""Coupling layers: one part of an event is scaled and shifted by functions of the other part."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.partition import Partition
from contraflow.errors import ConfigurationError, ShapeError


class Coupling(Bijection):
    r"""z = x·exp(s) + t, where s and t are functions of the kept elements of x and zero at them; log|det| = Σ s.

    The kept elements pass unchanged, so the inverse x = (z - t)·exp(-s) computes the same s and t at the same cost.
    For stability the log-scale is bounded, s = c·tanh(a/c) for an output a of the conditioner: s ≈ a near 0, and every
    scale lies between exp(-c) and exp(c).

    Additive: Dinh et al., NICE, 2014 (arXiv:1410.8516). Affine: Dinh et al., Real NVP, 2017 (arXiv:1605.08803).

    Args:
        partition: which elements are kept.
        conditioner: called as ``conditioner(kept)``, or ``conditioner(kept, context)`` if there is a context. It
            returns t, or t and a concatenated along dimension 1 if affine. It can be any `nn.Module` that treats
            samples independently.
        affine: whether elements are scaled as well as shifted; otherwise s = 0.
        scale_bound: c > 0, in nats per element.

    Raises:
        ConfigurationError: c is not positive.
        ShapeError: the conditioner's output has the wrong shape, or x does not fit the partition.

    >>> import torch
    >>> from contraflow.bijections import halves
    >>> from contraflow.nets import MLP
    >>> layer = Coupling(halves(3), MLP(2, 2, (8,)))
    >>> layer.forward_and_logdet(torch.randn(5, 3))[1].shape
    torch.Size([5])
    """

    def __init__(
        self, partition: Partition, conditioner: nn.Module, *, affine: bool = True, scale_bound: float = 2.0
    ) -> None:
        super().__init__()
        self.partition = partition
        self.conditioner = conditioner
        self.affine = affine
        self.scale_bound = check_scale_bound(scale_bound)

    def _parameters_at(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """t and s in the shape of x; s is ``None`` if the coupling is additive."""
        kept = self.partition.keep(x)
        channels = self.partition.changed * (1 + self.affine)
        raw = conditioned(self.conditioner, kept, context, channels)
        if not self.affine:
            return self.partition.spread(raw), None
        shift, log_scale = raw.chunk(2, dim=1)
        return self.partition.spread(shift), self.partition.spread(bounded(log_scale, self.scale_bound))

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(x, context)
        if log_scale is None:
            return x + shift, x.new_zeros(x.shape[0])
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(z, context)
        if log_scale is None:
            return z - shift, z.new_zeros(z.shape[0])
        return (z - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def extra_repr(self) -> str:
        return f"affine, scale_bound={self.scale_bound:g}" if self.affine else "additive"


def bounded(log_scale: Tensor, bound: float) -> Tensor:
    """c·tanh(a/c), which is close to a near 0 and always lies in (-c, c)."""
    return bound * (log_scale / bound).tanh()


def check_scale_bound(bound: float) -> float:
    """The bound on log-scales, if it is positive.

    Raises:
        ConfigurationError: the bound is not positive.
    """
    if not bound > 0:
        raise ConfigurationError(
            f"scale_bound={bound}: it must be positive, in nats; use affine=False for additive couplings."
        )
    return bound


def conditioned(conditioner: nn.Module, kept: Tensor, context: Tensor | None, channels: int) -> Tensor:
    """The conditioner's output, checked to have `channels` channels.

    Raises:
        ShapeError: the output has another shape.
    """
    raw = conditioner(kept) if context is None else conditioner(kept, context)
    expected = (kept.shape[0], channels, *kept.shape[2:])
    if tuple(raw.shape) != expected:
        raise ShapeError(
            f"the conditioner {type(conditioner).__name__} returns {tuple(raw.shape)} for an input of "
            f"{tuple(kept.shape)}; the coupling needs {expected}."
        )
    return raw
