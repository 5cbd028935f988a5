"""The bent identity: a smooth leaky ReLU with an inverse in closed form."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections.bijection import Bijection
from contraflow.errors import ShapeError


class BentIdentity(Bijection):
    r"""z = x + c(√(1 + x²) - 1) per feature, |c| < 1, with slope 1 - c as x → -∞ and 1 + c as x → ∞.

    log|det| = Σ log(1 + c x/√(1 + x²)) over the event. The inverse is x = (y - c√(y² + 1 - c²)) / (1 - c²), y = z + c.
    c = r/√(1 + r²) for an unconstrained parameter r, which is initialised at random: from r = 0 everywhere, a stack of
    linear maps trained on symmetric data would stay linear. The activation called bent identity has c = 1/2.

    Args:
        features: size of dimension 1, for vectors ``(batch, features)`` and images alike.

    Raises:
        ShapeError: an input with another number of features.

    >>> bend, x = BentIdentity(2), torch.tensor([[-3.0, 5.0]])
    >>> torch.allclose(bend.inverse(bend(x)), x, atol=1e-5)
    True
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.r = nn.Parameter(torch.randn(features) / 2)

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        c, _ = self._bend(x)
        root = torch.hypot(x, torch.ones_like(x))
        return x + c * (root - 1), torch.log1p(c * x / root).flatten(1).sum(dim=1)

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        c, rest = self._bend(z)
        y = z + c
        x = (y - c * torch.hypot(y, rest.sqrt().expand_as(y))) / rest
        return x, -torch.log1p(c * x / torch.hypot(x, torch.ones_like(x))).flatten(1).sum(dim=1)

    def inverse_lipschitz_bound(self) -> float:
        """1 / (1 - |c|), computed without cancellation for large r."""
        r = self.r.detach().abs().double()
        length = torch.hypot(r, torch.ones_like(r))
        return (length * (length + r)).max().item()

    def _bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """c and 1 - c² = 1/(1 + r²), broadcast along dimension 1."""
        if x.ndim < 2 or x.shape[1] != len(self.r):
            raise ShapeError(f"BentIdentity({len(self.r)}) got an input of shape {tuple(x.shape)}.")
        r = self.r.view(1, -1, *[1] * (x.ndim - 2))
        rest = 1 / (1 + r * r)
        return r * rest.sqrt(), rest

    def extra_repr(self) -> str:
        return str(len(self.r))
