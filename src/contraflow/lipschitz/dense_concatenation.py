"""The contraction of an i-DenseNet: every layer takes the input and the outputs of all layers before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import ConfigurationError, DomainError
from contraflow.lipschitz.activations import SWISH_LIPSCHITZ
from contraflow.lipschitz.composition import grouped
from contraflow.lipschitz.convolution import channels_last
from contraflow.lipschitz.layers import LipschitzConv2d, LipschitzLinear
from contraflow.lipschitz.norms import LearnedOrders, Norms, Spectral
from contraflow.lipschitz.operator_norms import OperatorNorm, layer_norms
from contraflow.lipschitz.soft_normalisation import LipschitzLayer, current_scales
from contraflow.numerics import Contraction, Vjp

_SPECTRAL = Spectral()

#: Divisor D of the pair Φ(z) = [φ(z), φ(-z)]/D, φ(z) = z·σ(βz)/1.1, by the order p of the norm: Lip(Φ) is just below
#: 1. That of p = 2 is the paper's.
_DIVISORS = {1.0: 1.091, 2.0: 1.004, math.inf: 1.0}


def clipswish_lipschitz(order: float) -> float:
    """Lip(Φ) in ‖·‖_p.

    With a = d/ds s·σ(s) at s = βz the slopes of the pair are (a, a - 1)/(1.1·D), since φ(-z) = φ(z) - z/1.1. Pairs
    share no coordinate, so Lip(Φ) is the maximum of ‖(a, a - 1)‖_p/(1.1·D), convex in a and thus largest at the ends
    of its range [1 - M, M], where it is equal.
    """
    return _norm(SWISH_LIPSCHITZ, SWISH_LIPSCHITZ - 1, order) / (1.1 * _DIVISORS[order])


def _norm(first: float, second: float, order: float) -> float:
    """‖·‖_p of two numbers that are not negative."""
    return max(first, second) if order == math.inf else (first**order + second**order) ** (1 / order)


class _Stage(NamedTuple):
    """The tensors of a layer that concatenates, and of the concatenation after it.

    Attributes:
        weight, bias: scaled W, and b.
        share: η̂₁, of the features before.
        amplitude: η̂₂/(1.1·D); the new features have this times (a, a - 1) as slopes against their layer's outputs.
        beta: β.
    """

    weight: Tensor
    bias: Tensor
    share: Tensor
    amplitude: Tensor
    beta: Tensor


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
    r"""z, h ↦ [η̂₁ h, η̂₂ Φ(z)] with CLipSwish Φ(z) = [φ(z), φ(-z)]/D, and η̂ = softplus(raw)/‖softplus(raw)‖_p."""

    def __init__(self, order: float = 2.0) -> None:
        super().__init__()
        self.order = order
        self.raw_shares = nn.Parameter(torch.zeros(2))
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def shares(self) -> Tensor:
        """(η̂₁, η̂₂), positive, of norm 1 in ‖·‖_p."""
        return F.normalize(F.softplus(self.raw_shares), p=self.order, dim=0)

    def beta(self) -> Tensor:
        """β > 0."""
        return F.softplus(self.raw_beta)


class DenseConcatenation(nn.Module, Contraction):
    r"""g(x) = W_n h_{n-1},  h_0 = x,  h_l = [η̂₁ h_{l-1}, η̂₂ Φ(W_l h_{l-1} + b_l)]  with learned shares η̂ of norm 1.

    Φ is CLipSwish. A concatenation of maps with constants K₁, K₂ in ‖·‖_p has at most ‖(K₁, K₂)‖_p, so that

        Lip(g) <= ‖W_n‖ Π_l ‖(η̂₁, η̂₂ Lip(Φ) ‖W_l‖)‖_p,   Lip(Φ) = 0.99997 for p = 2:

    at most 1 where every layer is, however many features are concatenated. Y. Perugachi-Diaz, J. M. Tomczak,
    S. Bhulai, "Invertible DenseNets with concatenated LipSwish", 2021 (arXiv:2102.02694), for p = 2. The bound is
    proved, with the layers' certified norms: `Flow.certify`. Transposed products are in closed form, the dual pass is
    differentiated by autograd.

    Args:
        layers: W_1 … W_n, each taking all features before it, bounded from ‖·‖_p into ‖·‖_p.
        order: p, one of 1, 2, ∞.
    """

    def __init__(self, layers: Sequence[LipschitzLayer], order: float = 2.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.order = order
        self.concatenations = nn.ModuleList(Concatenation(order) for _ in layers[:-1])

    def stack(self) -> list[LipschitzLayer]:
        """The layers W_1 … W_n."""
        return cast(list[LipschitzLayer], list(self.layers))

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of every stage, then W_n and b_n, with c applied."""
        layers = self.stack()
        *weights, last = (layer.weight * scale for layer, scale in zip(layers, current_scales(layers), strict=True))
        divisor = 1.1 * _DIVISORS[self.order]
        stages = []
        for layer, weight, concatenation in zip(layers[:-1], weights, self._concatenations(), strict=True):
            share, new = concatenation.shares()
            stages.append(_Stage(weight, layer.bias, share, new / divisor, concatenation.beta()))
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
                u = stage.share * before + layer.apply_adjoint(stage.weight, inner.flatten(0, 1) * stage.amplitude)
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
            tangents = torch.cat([stage.share * tangents, stage.amplitude * up, stage.amplitude * (up - moved)], dim=1)
        products = last.apply_weight(named.weight, tangents)
        return last.affine(named.weight, named.bias, h), products.unflatten(0, probes)

    @torch.no_grad()
    def compose(self, norms: Sequence[float]) -> float:
        """Π of the stages' constants, where the layers have these norms."""
        *norms, total = norms
        for concatenation, norm in zip(self._concatenations(), norms, strict=True):
            share, new = concatenation.shares().double().tolist()
            total *= _norm(share, new * self.pair_constant * norm, self.order)
        return total

    @property
    def norm_order(self) -> float:  # type: ignore[override]
        """p of the norm in which g is bounded."""
        return self.order

    @property
    def pair_constant(self) -> float:
        """Lip(Φ) in ‖·‖_p."""
        return clipswish_lipschitz(self.order)

    def lipschitz_bound(self) -> float:
        """L with ‖g(x) - g(y)‖_p <= L ‖x - y‖_p from the layers' certified norms, from above."""
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
    return torch.cat([stage.share * h, gain * value, gain * (value - s)], dim=1), s


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
        norms: `Spectral()`, or `MixedNorms((p, p, …))` with one of 1, 2, ∞ at all depth + 2 places.

    Raises:
        DomainError: growth or depth below 1.
        ConfigurationError: other norms.

    >>> g = DenseConcatenationMLP(2, growth=8)
    >>> g(torch.zeros(3, 2)).shape, g.lipschitz_bound() < 0.99
    (torch.Size([3, 2]), True)
    """

    def __init__(
        self, features: int, growth: int, depth: int = 3, bound: float = 0.98, norms: Norms = _SPECTRAL
    ) -> None:
        widths = _widths(features, growth, depth)
        order, (*inner, last) = _one_order(norms, len(widths))
        layers = [LipschitzLinear(width, growth, bound, norm) for width, norm in zip(widths[:-1], inner, strict=True)]
        super().__init__([*layers, LipschitzLinear(widths[-1], features, bound, last)], order)


class DenseConcatenationConvNet(DenseConcatenation):
    """Dense concatenation for images: k×k convolutions, and a 1×1 convolution back to the channels of the image.

    Args:
        channels: C.
        growth, depth, bound, norms: as for `DenseConcatenationMLP`.
        size: (H, W).
        kernel_size: odd k.

    Raises:
        DomainError: growth or depth below 1.
        ConfigurationError: other norms.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        size: tuple[int, int],
        depth: int = 3,
        kernel_size: int = 3,
        bound: float = 0.98,
        norms: Norms = _SPECTRAL,
    ) -> None:
        widths = _widths(channels, growth, depth)
        order, (*inner, last) = _one_order(norms, len(widths))
        layers = [
            LipschitzConv2d(width, growth, kernel_size, size, bound, norm)
            for width, norm in zip(widths[:-1], inner, strict=True)
        ]
        super().__init__([*layers, LipschitzConv2d(widths[-1], channels, 1, size, bound, last)], order)


def _widths(features: int, growth: int, depth: int) -> list[int]:
    """Features that each layer takes."""
    if growth < 1 or depth < 1:
        raise DomainError(f"growth={growth}, depth={depth}: dense concatenation needs at least 1 of each.")
    return [features + 2 * growth * index for index in range(depth + 1)]


def _one_order(norms: Norms, layers: int) -> tuple[float, list[OperatorNorm]]:
    """p, and the norm of every layer."""
    orders = norms.orders(layers)
    values = {2.0} if orders is None else set(orders.values())
    if isinstance(orders, LearnedOrders) or len(values) > 1 or not values <= _DIVISORS.keys():
        raise ConfigurationError(
            f"norms={norms}: an i-DenseNet concatenates features in one norm. "
            f"Take one fixed order of 1, 2 or inf throughout, {layers + 1} times in MixedNorms."
        )
    return values.pop(), layer_norms(orders, layers)
