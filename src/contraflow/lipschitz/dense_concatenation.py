"""g of an i-DenseNet: every layer sees all that came before it, at the Lipschitz constant of one layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import DomainError
from contraflow.lipschitz.activations import SWISH_LIPSCHITZ
from contraflow.lipschitz.composition import grouped
from contraflow.lipschitz.convolution import channels_last
from contraflow.lipschitz.layers import LipschitzConv2d, LipschitzLinear
from contraflow.lipschitz.soft_normalisation import LipschitzLayer, current_scales
from contraflow.numerics import Contraction, Vjp

#: Divisors of LipSwish and of the concatenation of two.
_DIVISOR = 1.1 * 1.004

#: Lip(Φ) of Φ(z) = [φ(z), φ(-z)]/1.004, φ(z) = z·σ(βz)/1.1. With a = d/ds s·σ(s) at s = βz the slopes of the pair are
#: (a, a - 1)/(1.1·1.004), since φ(-z) = φ(z) - z/1.1. Pairs share no coordinate, so Lip(Φ)² is the maximum of
#: (a² + (a - 1)²)/(1.1·1.004)², convex in a and thus largest at the ends of its range [1 - M, M], where it is equal.
CLIPSWISH_LIPSCHITZ = math.hypot(SWISH_LIPSCHITZ, SWISH_LIPSCHITZ - 1) / _DIVISOR


class _Stage(NamedTuple):
    """Scaled W and b of one layer, η̂ ``(2,)`` and β ``()`` of the concatenation after it."""

    weight: Tensor
    bias: Tensor
    shares: Tensor
    beta: Tensor

    @property
    def amplitude(self) -> Tensor:
        """η̂₂/(1.1·1.004): slope of the new features against their layer's outputs is this times (a, a - 1)."""
        return self.shares[1] / _DIVISOR


class _Tensors(NamedTuple):
    """The tensors of g by name; contractions hand them on as the flat sequence.

    Attributes:
        stages: of the layers that concatenate.
        weight, bias: scaled W_n, and b_n.
    """

    stages: list[_Stage]
    weight: Tensor
    bias: Tensor

    @classmethod
    def named(cls, flat: Sequence[Tensor]) -> _Tensors:
        *stages, weight, bias = flat
        return cls(grouped(_Stage, stages), weight, bias)

    def flat(self) -> tuple[Tensor, ...]:
        return (*itertools.chain.from_iterable(self.stages), self.weight, self.bias)


class Concatenation(nn.Module):
    r"""z, h ↦ [η̂₁ h, η̂₂ Φ(z)] with CLipSwish Φ(z) = [φ(z), φ(-z)]/1.004, and η̂ = softplus(raw)/‖softplus(raw)‖₂."""

    def __init__(self) -> None:
        super().__init__()
        self.raw_shares = nn.Parameter(torch.zeros(2))
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def shares(self) -> Tensor:
        """(η̂₁, η̂₂), positive, of Euclidean norm 1."""
        return F.normalize(F.softplus(self.raw_shares), dim=0)

    def beta(self) -> Tensor:
        """β > 0."""
        return F.softplus(self.raw_beta)


class DenseConcatenation(nn.Module, Contraction):
    r"""g(x) = W_n h_{n-1},  h_0 = x,  h_l = [η̂₁ h_{l-1}, η̂₂ Φ(W_l h_{l-1} + b_l)]  with learned shares η̂ of norm 1.

    Φ is CLipSwish. A concatenation of maps with constants K₁, K₂ has at most √(K₁² + K₂²), so that

        Lip(g) <= ‖W_n‖ Π_l √(η̂₁² + (η̂₂ Lip(Φ) ‖W_l‖)²),   Lip(Φ) = 0.99997:

    at most 1 where every layer is, however many features are concatenated. Y. Perugachi-Diaz, J. M. Tomczak,
    S. Bhulai, "Invertible DenseNets with concatenated LipSwish", 2021 (arXiv:2102.02694). The bound is proved, with
    the layers' certified norms: `Flow.certify`. Transposed products are in closed form, the dual pass is
    differentiated by autograd.

    Args:
        layers: W_1 … W_n, each taking all features before it.
    """

    def __init__(self, layers: Sequence[LipschitzLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.concatenations = nn.ModuleList(Concatenation() for _ in layers[:-1])

    def stack(self) -> list[LipschitzLayer]:
        """The layers W_1 … W_n."""
        return cast(list[LipschitzLayer], list(self.layers))

    def tensors(self) -> tuple[Tensor, ...]:
        """W_l, b_l, η̂ and β of every stage, then W_n and b_n, with c applied."""
        layers = self.stack()
        *weights, last = (layer.weight * scale for layer, scale in zip(layers, current_scales(layers), strict=True))
        stages = [
            _Stage(weight, layer.bias, one.shares(), one.beta())
            for layer, weight, one in zip(layers[:-1], weights, self._concatenations(), strict=True)
        ]
        return _Tensors(stages, last, layers[-1].bias).flat()

    def _concatenations(self) -> list[Concatenation]:
        return cast(list[Concatenation], list(self.concatenations))

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        h, named = channels_last(x) if x.ndim == 4 else x, _Tensors.named(tensors)
        *layers, last = self.stack()
        for layer, stage in zip(layers, named.stages, strict=True):
            h, _ = _advance(layer, stage, h)
        return last.affine(named.weight, named.bias, h)

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Vjp]:
        """g(x) and u ↦ J_g(x)ᵀu; keeps one slope a hidden feature until the closure is dropped."""
        h, named = channels_last(x) if x.ndim == 4 else x, _Tensors.named(tensors)
        *layers, last = self.stack()
        slopes = []
        for layer, stage in zip(layers, named.stages, strict=True):
            h, s = _advance(layer, stage, h)
            slopes.append(_silu_slope(s))

        def product(u: Tensor) -> Tensor:
            probes, rows = u.shape[:2]
            u = last.apply_adjoint(named.weight, u.flatten(0, 1))
            for layer, stage, slope in zip(reversed(layers), reversed(named.stages), reversed(slopes), strict=True):
                new = slope.shape[1]
                before, up, down = u.split([u.shape[1] - 2 * new, new, new], dim=1)
                inner = (up + down).unflatten(0, (probes, rows)) * slope[:rows] - down.unflatten(0, (probes, rows))
                u = stage.shares[0] * before + layer.apply_adjoint(stage.weight, inner.flatten(0, 1) * stage.amplitude)
            return u.unflatten(0, (probes, rows))

        return last.affine(named.weight, named.bias, h), Vjp(product)

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        h, named = channels_last(x) if x.ndim == 4 else x, _Tensors.named(tensors)
        *layers, last = self.stack()
        probes, tangents = t.shape[:2], t.flatten(0, 1)
        for layer, stage in zip(layers, named.stages, strict=True):
            moved = layer.apply_weight(stage.weight, tangents)
            h, s = _advance(layer, stage, h)
            up = (moved.unflatten(0, probes) * _silu_slope(s)).flatten(0, 1)
            tangents = torch.cat(
                [stage.shares[0] * tangents, stage.amplitude * up, stage.amplitude * (up - moved)], dim=1
            )
        products = last.apply_weight(named.weight, tangents)
        return last.affine(named.weight, named.bias, h), products.unflatten(0, probes)

    @torch.no_grad()
    def compose(self, norms: Sequence[float]) -> float:
        """Π of the stages' constants, where the layers have these norms."""
        *norms, total = norms
        for one, norm in zip(self._concatenations(), norms, strict=True):
            kept, new = one.shares().double().tolist()
            total *= math.hypot(kept, new * CLIPSWISH_LIPSCHITZ * norm)
        return total

    def lipschitz_bound(self) -> float:
        """L with ‖g(x) - g(y)‖₂ <= L ‖x - y‖₂ from the layers' certified norms, from above."""
        return self.compose([layer.lipschitz_bound() for layer in self.stack()])

    @torch.no_grad()
    def lipschitz_estimate(self) -> float:
        """The same from the power iterations' estimates, from below."""
        return self.compose([layer.normalised_sigma().item() for layer in self.stack()])

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.tensors(), x)


def _advance(layer: LipschitzLayer, stage: _Stage, h: Tensor) -> tuple[Tensor, Tensor]:
    """[η̂₁ h, η̂₂ Φ(z)] and s = βz, from one silu: silu(-s) = silu(s) - s."""
    s = stage.beta * layer.affine(stage.weight, stage.bias, h)
    value = F.silu(s)
    gain = stage.amplitude / stage.beta
    return torch.cat([stage.shares[0] * h, gain * value, gain * (value - s)], dim=1), s


def _silu_slope(s: Tensor) -> Tensor:
    """a = d/ds s·σ(s), differentiable."""
    sigma = torch.sigmoid(s)
    return sigma * (1 + s * (1 - sigma))


class DenseConcatenationMLP(DenseConcatenation):
    """Dense concatenation for vectors.

    Args:
        features: D, the dimension of the data.
        growth: outputs of each layer, which CLipSwish doubles.
        depth: layers that concatenate; one more leads back to D features.
        bound: c of each layer.

    Raises:
        DomainError: growth or depth below 1.

    >>> g = DenseConcatenationMLP(2, growth=8)
    >>> g(torch.zeros(3, 2)).shape, g.lipschitz_bound() < 0.99
    (torch.Size([3, 2]), True)
    """

    def __init__(self, features: int, growth: int, depth: int = 3, bound: float = 0.98) -> None:
        widths = _widths(features, growth, depth)
        layers = [LipschitzLinear(width, growth, bound) for width in widths[:-1]]
        super().__init__([*layers, LipschitzLinear(widths[-1], features, bound)])


class DenseConcatenationConvNet(DenseConcatenation):
    """Dense concatenation for images: k×k convolutions, and a 1×1 convolution back to the channels of the image.

    Args:
        channels: C.
        growth, depth, bound: as for `DenseConcatenationMLP`.
        size: (H, W).
        kernel_size: odd k.

    Raises:
        DomainError: growth or depth below 1.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        size: tuple[int, int],
        depth: int = 3,
        kernel_size: int = 3,
        bound: float = 0.98,
    ) -> None:
        widths = _widths(channels, growth, depth)
        layers = [LipschitzConv2d(width, growth, kernel_size, size, bound) for width in widths[:-1]]
        super().__init__([*layers, LipschitzConv2d(widths[-1], channels, 1, size, bound)])


def _widths(features: int, growth: int, depth: int) -> list[int]:
    """Features that each layer takes."""
    if growth < 1 or depth < 1:
        raise DomainError(f"growth={growth}, depth={depth}: dense concatenation needs at least 1 of each.")
    return [features + 2 * growth * index for index in range(depth + 1)]
