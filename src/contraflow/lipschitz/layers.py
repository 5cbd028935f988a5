"""Linear layers with a bounded operator norm, spectral or induced: W / max(1, σ(W)/c)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import DomainError, ShapeError
from contraflow.inputs import refuse_half
from contraflow.lipschitz.balance import Densities
from contraflow.lipschitz.certificate import certified_conv_norm, certified_dense_norm, spectral_method
from contraflow.lipschitz.convolution import convolve, convolve_each, kernel_gradient, mirrored
from contraflow.lipschitz.gram import convolution_gram, dense_gram
from contraflow.lipschitz.induced_certificate import certified_induced_norm
from contraflow.lipschitz.operator_norms import OperatorNorm, SpectralNorm
from contraflow.numerics import BlockTridiagonal

#: Columns below which a product u W is five times slower than the same with Wᵀ stored (measured with MKL, 2 columns).
_FEW = 8

#: Relative change of σ and most iterations of a thorough search for v.
THOROUGH = (1e-6, 500)


class ScaleCache:
    """A layer's scale and the versions it was computed from; copies of a layer start with an empty one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.key: Any = None
        self.scale: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> ScaleCache:
        return ScaleCache()

    def __reduce__(self) -> Any:
        return ScaleCache, ()


def _clear_all(caches: list[ScaleCache]) -> None:
    for cache in caches:
        cache.clear()


class LipschitzLayer(nn.Module, ABC):
    r"""A linear map with soft normalisation of its operator norm to `bound`: divided only where σ is above it.

    σ = ‖W v‖₂ with v the right singular vector of the power iteration, kept as a buffer for a warm start; at fixed v
    its gradient is u vᵀ. Another norm than the spectral one brings its own σ and iteration.
    `contraflow.lipschitz.update_lipschitz` refreshes v, once a step for the whole flow; nothing is written while the
    layer is used.

    Args:
        weight: the raw weight.
        outputs: length of the bias.
        start: shape of v.
        bound: c in (0, 1].
        norm: `SpectralNorm` by default, or an `InducedNorm`.
    """

    v: Tensor
    #: N where the operator is one matrix at each of N pixels and v covers one of them.
    copies: int = 1

    def __init__(
        self, weight: Tensor, outputs: int, start: tuple[int, ...], bound: float, norm: OperatorNorm | None = None
    ) -> None:
        super().__init__()
        if not 0 < bound <= 1:
            raise DomainError(f"bound={bound}: the Lipschitz bound of a layer lies in (0, 1].")
        self.bound = bound
        self.norm = norm if norm is not None else SpectralNorm()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=weight.dtype, device=weight.device))
        self.register_buffer("v", torch.randn(1, *start, dtype=weight.dtype, device=weight.device))
        self.warm = False
        #: Certified norm over estimate, at least 1: what a certified update of `update_lipschitz` multiplies σ by.
        self.excess = 1.0
        #: What a certified update measures an induced norm with; ``None`` after one by estimates.
        self.densities: Densities | None = None
        self.cache = ScaleCache()
        self._certified: tuple[Any, float] | None = None
        self.register_load_state_dict_post_hook(_on_load)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = self.weight[0].numel()
        nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @abstractmethod
    def apply_weight(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x without bias, over any leading batch dimension."""

    @abstractmethod
    def transposed(self, weight: Tensor) -> Tensor:
        """The weight of the adjoint, or a stack of them: ``apply_weight(transposed(weight), u)`` is Wᵀ u."""

    def apply_adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """Wᵀ u."""
        return self.apply_weight(self.transposed(weight), u)

    @abstractmethod
    def apply_each(self, weights: Tensor, x: Tensor) -> Tensor:
        """W_i x_i for a stack of weights of this layer's shape and as many inputs."""

    @abstractmethod
    def affine(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """W x + b."""

    @abstractmethod
    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """∂⟨y, W x⟩/∂W, summed over the batch."""

    def spread(self, bias: Tensor) -> Tensor:
        """The bias in a shape that can be added to an output."""
        return bias

    def spread_gradient(self, y: Tensor) -> Tensor:
        """∂⟨y, spread(b)⟩/∂b, summed over the batch."""
        return y.sum(dim=0)

    @abstractmethod
    def certified_norm(self, weight: Tensor, p: float = 2.0, q: float = 2.0) -> float:
        """An upper bound on the operator norm ‖·‖_{p→q} of `weight`."""

    def gram(self, weights: Tensor) -> BlockTridiagonal | None:
        """WᵀW for a stack of weights of this layer's shape, to certify them together; ``None`` where that is not
        offered, and `certified_norm` is asked layer by layer."""
        return None

    def sigma(self) -> Tensor:
        """The estimate of the raw weight's norm at v, from below; a scalar with gradient."""
        return self.norm.sigma(self)

    def converge(self, tolerance: float = THOROUGH[0], max_iterations: int = THOROUGH[1]) -> None:
        """A thorough iteration from the present v, in place; from a fresh start where v is not finite or zero."""
        self.start()
        self.accept(self.norm.search(self, tolerance, max_iterations))

    def start(self) -> None:
        """A new v where the present one is not finite or zero."""
        if not bool(self.v.isfinite().all()) or not bool(self.v.any()):
            self.v.normal_()

    def refresh(self, tolerance: float, max_iterations: int) -> None:
        """A warm-started iteration, in place."""
        self.accept(self.norm.refresh(self, tolerance, max_iterations))

    def restart(self) -> None:
        """A thorough power iteration from a v with a part in every direction: for one that is stuck.

        After a weight change v may be nearly orthogonal to the new top singular vector; σ then rests at a smaller
        singular value and the stopping rule is content.
        """
        seeded = torch.Generator().manual_seed(0)  # the same part every time: a run can be repeated and resumed
        noise = torch.randn(self.v.shape, generator=seeded, dtype=self.v.dtype).to(self.v.device)
        with torch.no_grad():
            self.v.add_(noise / noise.norm())
        self.converge(tolerance=1e-5, max_iterations=100)

    def accept(self, v: Tensor) -> None:
        """Take over a refreshed v."""
        with torch.no_grad():
            self.v.copy_(torch.where(v.any(), v, self.v))  # no question that a GPU would have to answer
        self.warm = True

    def normalised(self) -> Tensor:
        """W / max(1, σ/c)."""
        return self.weight * self.scale()

    def scale(self) -> Tensor:
        """1 / max(1, σ/c), computed once for a weight and kept until weight or v change or a backward pass used it."""
        refuse_half(self.weight.dtype, self.weight.device)
        tracked = torch.is_grad_enabled() and any(one.requires_grad for one in (self.weight, *self.norm.parameters()))
        if not self.warm:
            self.converge()
        if self.cache.key != (self._version_key(), tracked):
            # Outside inference mode, so that a later backward pass may use the tensor.
            with torch.inference_mode(False), torch.set_grad_enabled(tracked):
                self.remember(self.divisor().reciprocal(), [self.cache])
        assert self.cache.scale is not None
        return self.cache.scale

    def remember(self, scale: Tensor, sharing: list[ScaleCache]) -> None:
        """Keep a scale as the current one; `sharing` are the caches that stand on the same graph."""
        tracked = scale.requires_grad
        self.cache.scale = scale
        self.cache.key = (self._version_key(), tracked)
        if tracked:
            # The graph behind it is gone after a backward pass.
            scale.register_hook(lambda grad: _clear_all(sharing))

    def divisor(self) -> Tensor:
        """max(1, σ/c), with σ raised to a certified bound after a certified update."""
        return (self.norm.measure(self) * (self.excess / self.bound)).clamp_min(1)

    def by_estimate(self) -> None:
        """Forget what a certified update found: the weight is divided by σ alone."""
        self.excess, self.densities = 1.0, None

    @abstractmethod
    def spectral_method(self) -> str:
        """How ‖·‖₂ is certified, in words."""

    def lipschitz_bound(self) -> float:
        """The certified norm of the normalised weight, from above, between the norms of the layer."""
        refuse_half(self.weight.dtype, self.weight.device)
        if not self.warm:
            self.converge()
        key = self._version_key()
        if self._certified is None or self._certified[0] != key:
            with torch.no_grad():
                self._certified = (key, self.norm.certified(self, self.normalised()))
        return self._certified[1]

    def _version_key(self) -> Any:
        """Changes whenever the scale does."""
        measured = self.excess, self.densities is None
        return self.weight._version, self.v._version, id(self.weight), measured, self.norm.version()

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.normalised(), self.bias, x)


def _on_load(layer: nn.Module, incompatible: Any) -> None:
    assert isinstance(layer, LipschitzLayer)
    layer.cache.clear()
    layer.by_estimate()
    # A checkpoint that brings its v needs no new start; one without (foreign weights) does.
    layer.warm = not any(key.rsplit(".", 1)[-1] == "v" for key in incompatible.missing_keys)


class LipschitzLinear(LipschitzLayer):
    """W x + b with ‖W‖₂ <= bound, W ``(out, in)``; ‖W‖_{p→q} <= bound under an `InducedNorm`.

    >>> layer = LipschitzLinear(4, 8, bound=0.98)
    >>> layer(torch.zeros(2, 4)).shape, layer.lipschitz_bound() < 0.99
    (torch.Size([2, 8]), True)
    """

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
