"""ActNorm: a scale and a shift per channel, initialised by the first batch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import DomainError, ShapeError, UninitialisedWarning


class ActNorm(Bijection):
    r"""z = (x + b)·exp(s) per channel; log|det| = (elements per channel)·Σ s.

    The first forward batch in training mode sets b and s so that the output of every channel has mean 0 and variance 1.
    Channels that are constant in that batch keep scale 1, and so do all channels if the batch is a single vector. An
    ActNorm loaded from a checkpoint is initialised if the saved one was. Before its initialisation ActNorm is the
    identity; an inverse, or a forward pass in evaluation mode, then issues an `UninitialisedWarning`.

    Kingma and Dhariwal, Glow, 2018 (arXiv:1807.03039).

    Args:
        channels: size of dimension 1, for vectors ``(batch, channels)`` and images ``(batch, channels, H, W)`` alike.

    >>> z, _ = ActNorm(1).forward_and_logdet(torch.tensor([[1.0], [3.0]]))
    >>> z.flatten().tolist()
    [-1.0, 1.0]
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))
        self._ready = False  # mirrors the buffer, to spare a device synchronisation a call
        self.register_load_state_dict_post_hook(_on_load)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set shift and scale from a batch.

        Raises:
            DomainError: inside `torch.func.vmap`, where there is no batch.
        """
        rows = x.detach().transpose(0, 1).flatten(1)
        std, mean = torch.std_mean(rows, dim=1, correction=0)
        # A channel is constant if its spread is of the size of rounding errors, or subnormal, without a finite inverse.
        limits = torch.finfo(std.dtype)
        constant = std <= (100 * limits.eps * rows.abs().amax(dim=1)).clamp(min=limits.tiny)
        try:
            self.shift.copy_(-mean)
        except RuntimeError as error:  # inside torch.func.vmap there is one row, and buffers cannot be written
            raise DomainError(
                "ActNorm has seen no batch yet and cannot be initialised inside torch.func: call flow.log_prob on a "
                "batch of data first."
            ) from error
        self.log_scale.copy_(-torch.where(constant, torch.ones_like(std), std).log())
        self.initialised.fill_(True)
        self._ready = True

    def _is_ready(self) -> bool:
        self._ready = self._ready or bool(self.initialised)
        return self._ready

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != len(self.shift):
            raise ShapeError(f"ActNorm({len(self.shift)}) got an input of shape {tuple(x.shape)}.")

    def _per_channel(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        view = (1, -1, *[1] * (x.ndim - 2))
        count = x[0, 0].numel() if x.shape[0] else 1
        logdet = (self.log_scale.sum() * count).expand(x.shape[0])
        return self.shift.view(view), self.log_scale.view(view), logdet

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        if x.shape[0] and not self._is_ready():
            if self.training:
                self.initialise(x)
            else:
                _warn_uninitialised()
        shift, log_scale, logdet = self._per_channel(x)
        return (x + shift) * log_scale.exp(), logdet

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        if z.shape[0] and not self._is_ready():
            _warn_uninitialised()
        shift, log_scale, logdet = self._per_channel(z)
        return z * (-log_scale).exp() - shift, -logdet

    def inverse_lipschitz_bound(self) -> float:
        return (-self.log_scale).exp().max().item()

    def forward_lipschitz_bound(self) -> float:
        return self.log_scale.exp().max().item()


def _warn_uninitialised() -> None:
    warnings.warn(
        "ActNorm has seen no batch yet and is the identity: the first batch in training mode initialises it, which "
        "changes samples and densities. Call flow.log_prob on a batch of data, or load a checkpoint, before this.",
        UninitialisedWarning,
        stacklevel=4,
    )


def _on_load(module: nn.Module, incompatible: Any) -> None:
    module._ready = False  # type: ignore[assignment]
