"""Linear layers with a bounded norm: a matrix, and a zero-padded convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from contraflow.errors import ShapeError
from contraflow.lipschitz.bounds.gram import convolution_gram, dense_gram
from contraflow.lipschitz.bounds.induced import certified_induced_norm
from contraflow.lipschitz.bounds.spectral import certified_conv_norm, certified_dense_norm, spectral_method
from contraflow.lipschitz.convolution import convolve, convolve_each, kernel_gradient, mirrored
from contraflow.lipschitz.operator_norms import OperatorNorm
from contraflow.lipschitz.soft_normalisation import LipschitzLayer
from contraflow.numerics import BlockTridiagonal

#: Columns below which a product u W is five times slower than the same with Wᵀ stored (measured with MKL, 2 columns).
_FEW = 8


class LipschitzLinear(LipschitzLayer):
    """W x + b with ‖W‖₂ <= bound, W ``(out, in)``; ‖W‖_{p→q} <= bound under an `InducedNorm`.

    >>> layer = LipschitzLinear(4, 8, bound=0.98)
    >>> layer(torch.zeros(2, 4)).shape, layer.lipschitz_bound() < 0.99
    (torch.Size([2, 8]), True)
    """

    stacks = True

    def __init__(self, inputs: int, outputs: int, bound: float = 0.98, norm: OperatorNorm | None = None) -> None:
        super().__init__(torch.empty(outputs, inputs), outputs, (inputs,), bound, norm)

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        return x @ weight.t()

    def transposed(self, weight: Tensor) -> Tensor:
        return weight.mT.contiguous() if weight.shape[-1] < _FEW else weight.mT

    def apply_each(self, weights: Tensor, x: Tensor) -> Tensor:
        return (weights @ x[:, :, None])[:, :, 0]

    def affine(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        return y.t() @ x if y.shape[1] <= x.shape[1] else (x.t() @ y).t()

    def certified_norm(self, weight: Tensor, p: float = 2.0, q: float = 2.0) -> float:
        return certified_dense_norm(weight) if p == q == 2 else certified_induced_norm(weight, p, q, v=self.v)

    def spectral_method(self) -> str:
        return "singular values"

    def gram(self, weights: Tensor) -> BlockTridiagonal:
        return dense_gram(weights)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bound={self.bound}"


class LipschitzConv2d(LipschitzLayer):
    """A zero-padded k×k convolution of stride 1 whose *operator* norm at its spatial size is at most `bound`.

    The norm is that of the map ``(in, H, W)`` → ``(out, H, W)``, not of the reshaped kernel, which can miss it by a
    factor up to k. The size is fixed at construction: a bound at one size does not hold at a larger one.

    Args:
        inputs, outputs: channels.
        kernel_size: odd k.
        size: (H, W).
        bound: c in (0, 1].
        norm: as for `LipschitzLayer`.

    Raises:
        ShapeError: even kernel, or an input of another spatial size.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        size: tuple[int, int],
        bound: float = 0.98,
        norm: OperatorNorm | None = None,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ShapeError(f"kernel_size={kernel_size}: an odd size keeps the image's size.")
        self.size = (int(size[0]), int(size[1]))
        # A 1×1 convolution is the same matrix at every pixel: one pixel is enough for its norm.
        pixels = (1, 1) if kernel_size == 1 else self.size
        weight = torch.empty(outputs, inputs, kernel_size, kernel_size)
        super().__init__(weight, outputs, (inputs, *pixels), bound, norm)
        if kernel_size == 1:
            self.copies = self.size[0] * self.size[1]

    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        return convolve(x, weight)

    def transposed(self, weight: Tensor) -> Tensor:
        return mirrored(weight)

    def apply_each(self, weights: Tensor, x: Tensor) -> Tensor:
        return convolve_each(x, weights)

    def affine(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.size:
            raise ShapeError(
                f"this convolution is bounded at {self.size[0]}×{self.size[1]} pixels and got an input of shape "
                f"{tuple(x.shape)}. Build the flow for that image size."
            )
        return convolve(x, weight, bias)

    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        return kernel_gradient(x, y, self.weight.shape[-1])

    def spread(self, bias: Tensor) -> Tensor:
        return bias[:, None, None]

    def spread_gradient(self, y: Tensor) -> Tensor:
        return y.sum(dim=(0, 2, 3))

    def certified_norm(self, weight: Tensor, p: float = 2.0, q: float = 2.0) -> float:
        if p == q == 2:
            return certified_conv_norm(weight, size=self.size, start=self.v, target=self.bound)
        return certified_induced_norm(weight, p, q, self.size, self.v)

    def spectral_method(self) -> str:
        return spectral_method(self.weight, self.size)

    def gram(self, weights: Tensor) -> BlockTridiagonal | None:
        if weights.shape[-1] == 1:
            return dense_gram(weights[:, :, :, 0, 0])
        return convolution_gram(weights, self.size)

    def extra_repr(self) -> str:
        outputs, inputs, k, _ = self.weight.shape
        return f"{inputs}, {outputs}, kernel_size={k}, size={self.size}, bound={self.bound}"
