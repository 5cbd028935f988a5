"""Elementwise maps: the logit transform and a fixed affine map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.errors import DomainError


class Logit(Bijection):
    r"""z = log s - log(1 - s) with s = α + (1 - 2α)x, from [0, 1] to the real line.

    log|dz/dx| = log(1 - 2α) - log s - log(1 - s), summed over the event. Dinh et al., Real NVP, 2017
    (arXiv:1605.08803), section 4.1; the code of Residual Flows uses α = 1e-6 for MNIST and 0.05 elsewhere.

    Args:
        alpha: smallest distance of s from 0 and 1, in (0, 0.5).

    Raises:
        DomainError: alpha is out of range, or x lies outside [0, 1].
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise DomainError(f"alpha={alpha}: it must lie strictly between 0 and 0.5.")
        self.alpha = alpha

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
            raise DomainError(
                f"the logit transform takes values in [0, 1], not [{x.min().item():g}, {x.max().item():g}]. "
                "Scale the data first."
            )
        # 1 - s is computed from 1 - x: in float32, subtracting an s near 1 would lose α = 1e-6 to rounding.
        log_s = torch.log(self.alpha + (1 - 2 * self.alpha) * x)
        log_1ms = torch.log(self.alpha + (1 - 2 * self.alpha) * (1 - x))
        return log_s - log_1ms, self._logdet(log_s, log_1ms)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)
        return x, -self._logdet(F.logsigmoid(z), F.logsigmoid(-z))

    def inverse_lipschitz_bound(self) -> float:
        return 1 / (4 * (1 - 2 * self.alpha))  # the sigmoid's steepest slope is 1/4

    def _logdet(self, log_s: Tensor, log_1ms: Tensor) -> Tensor:
        return (math.log1p(-2 * self.alpha) - log_s - log_1ms).flatten(1).sum(dim=1)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}"


class Affine(Bijection):
    r"""Normalisation by constants: z = (x - shift) / scale; log|det| = -Σ log|scale| over the event.

    Args:
        shift, scale: constants that broadcast against one event, for instance ``(C, 1, 1)`` for images; scale is not 0.

    Raises:
        DomainError: a scale is zero, or a constant is not finite.
    """

    in_float64 = True
    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        shift, scale = torch.broadcast_tensors(torch.as_tensor(shift), torch.as_tensor(scale))
        if not bool((scale.isfinite() & (scale != 0)).all()) or not bool(shift.isfinite().all()):
            raise DomainError("Affine: shift and scale must be finite and scale must not be 0; drop constant columns.")
        self.register_buffer("shift", shift.clone())
        self.register_buffer("scale", scale.clone())

    def _logdet(self, x: Tensor) -> Tensor:
        return -self.scale.abs().log().expand(x.shape[1:]).sum().expand(x.shape[0])

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return (x - self.shift) / self.scale, self._logdet(x)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return z * self.scale + self.shift, -self._logdet(z)

    def inverse_lipschitz_bound(self) -> float:
        return self.scale.abs().max().item()

    def forward_lipschitz_bound(self) -> float:
        return 1 / self.scale.abs().min().item()
