"""g = W_n φ(… φ(W_1 φ(x))): bounded layers and activations in turn, with first derivatives in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from contraflow.errors import ConfigurationError, unknown_name
from contraflow.lipschitz import passes
from contraflow.lipschitz.activations import ACTIVATIONS, Activation, along_units
from contraflow.lipschitz.composition import Composition, LayerTensors, NetworkTensors
from contraflow.lipschitz.convolution import channels_last
from contraflow.lipschitz.initialisation import initialise
from contraflow.lipschitz.layers import LipschitzConv2d, LipschitzLinear
from contraflow.lipschitz.norms import BlockOrders, Norms, Spectral
from contraflow.lipschitz.operator_norms import layer_norms
from contraflow.lipschitz.soft_normalisation import LipschitzLayer, current_scales
from contraflow.numerics import Contraction

_SPECTRAL = Spectral()


class LipschitzNetwork(nn.Module, Contraction):
    r"""g(x) = W_n φ_n(… φ_2(W_1 φ_1(x) + b_1) …) + b_n with Lip(g) <= Π ‖W_l‖ Lip(φ_l).

    Value, transposed products and dual pass are products with weights and
    multiplications with activation derivatives. Activation gains are folded into the scales of the weights before and
    after.

    Args:
        layers: W_1 … W_n.
        activation: one activation, copied for every place; where it concatenates, the layers behind it take all its
            features.
        preactivation: whether φ_1 stands before W_1; without it g starts with W_1.
        orders: the orders of the norms between which `layers` are bounded; ``None`` for the spectral norm.
    """

    def __init__(
        self,
        layers: Sequence[LipschitzLayer],
        activation: Activation,
        *,
        preactivation: bool = True,
        orders: BlockOrders | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.orders = orders
        self.preactivation = preactivation
        behind = layers if preactivation else layers[1:]
        units = [layer.weight.shape[1] // activation.width_factor for layer in behind]
        self.activations = nn.ModuleList(map(activation.for_units, units))

    def stack(self) -> list[LipschitzLayer]:
        """The layers W_1 … W_n."""
        return cast(list[LipschitzLayer], list(self.layers))

    def composition(self) -> Composition:
        """Layers and activations in turn, for the passes."""
        activations = cast(list[Activation | None], list(self.activations))
        return Composition(self.stack(), activations if self.preactivation else [None, *activations], self.prepare)

    def tensors(self) -> tuple[Tensor, ...]:
        """`NetworkTensors` as a flat tuple: the input gain, then weight, scale and bias of every layer.

        The scale is 1 / max(1, σ/c) with the gains folded in, so that no scaled weight has to be stored.
        """
        layers, activations, _ = self.composition()
        parts = []
        for layer, scale, before, after in zip(
            layers, current_scales(layers), activations, [*activations[1:], None], strict=True
        ):
            bias: Tensor = layer.bias
            dimensions = layer.weight.ndim - 2
            if before is not None and (incoming := before.output_gain()) is not None:
                scale = scale * along_units(incoming, dimensions)
            if after is not None and (outgoing := after.input_gain()) is not None:
                scale, bias = scale * along_units(outgoing, dimensions + 1), bias * outgoing
            parts.append(LayerTensors(layer.weight, scale, bias))
        gain = activations[0].input_gain() if activations[0] is not None else None
        first = layers[0].weight
        return NetworkTensors(first.new_ones(()) if gain is None else along_units(gain, first.ndim - 2), parts).flat()

    def prepare(self, x: Tensor) -> Tensor:
        """x in the memory layout that the layers like best."""
        return x

    def value(self, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        return self.function(tensors)(x)

    def function(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        return passes.function(self.composition(), tensors)

    def linearize(self, tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, passes.Adjoint]:
        """g(x) and u ↦ J_g(x)ᵀu; keeps the activation derivatives of this one block until the closure is dropped."""
        return passes.linearize(self.composition(), tensors, x)

    def linearize_kept(
        self, tensors: Sequence[Tensor], x: Tensor
    ) -> tuple[Tensor, passes.Adjoint, tuple[Tensor | None, ...]]:
        return passes.linearize_kept(self.composition(), tensors, x)

    def kept_gradient(self, tensors: Sequence[Tensor], *of_pass: Any) -> list[Tensor | None]:
        return passes.kept_gradient(self.composition(), tensors, *of_pass)

    def dual(self, tensors: Sequence[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        gx, products = passes.DualPass.apply(self.composition(), x, t.flatten(0, 1), *tensors)
        return gx, products.unflatten(0, t.shape[:2])

    @property
    def norm_order(self) -> float:  # type: ignore[override]
        """p₀, the order of the norm in which g is bounded."""
        return self.norm_orders()[0]

    def norm_orders(self) -> tuple[float, ...]:
        """p₀ … p_n, before the first layer and after each; all 2 for the spectral norm."""
        return (2.0,) * (len(self.layers) + 1) if self.orders is None else self.orders.values()

    def lipschitz_bound(self) -> float:
        """L = Π certified ‖W_l‖ · Π Lip(φ_l) with ‖g(x) - g(y)‖_p <= L ‖x - y‖_p, p = `norm_order`; from above.

        Activations that do not concatenate have one constant in every norm. Spectral norms are certified to rounding
        or half a per cent; docs/maths/induced-norms.md says how loose other orders are.
        """
        return math.prod((*(layer.lipschitz_bound() for layer in self.stack()), *self.activation_constants()))

    @torch.no_grad()
    def lipschitz_estimate(self) -> float:
        """The same product of the power iterations' estimates, from below."""
        estimates = [layer.normalised_sigma() for layer in self.stack()]
        return torch.stack(estimates).prod().item() * math.prod(self.activation_constants())

    def activation_constants(self) -> tuple[float, ...]:
        """Lip(φ_l) of every activation, each in the norm of its place."""
        orders = self.norm_orders()[-1 - len(self.activations) : -1]
        return tuple(
            cast(Activation, activation).lipschitz_in(p) for activation, p in zip(self.activations, orders, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.tensors(), x)


def make_activation(activation: str | Activation) -> Activation:
    """An activation by name, or the one given.

    Raises:
        ConfigurationError: unknown name.
    """
    if isinstance(activation, Activation):
        return activation
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]()


def layer_widths(
    data: int, hidden: Sequence[int], activation: Activation, *, preactivation: bool
) -> list[tuple[int, int]]:
    """Inputs and outputs of every layer.

    Args:
        data: features or channels of the data.
        hidden: those that the layers behind the activations take; a layer before a concatenating activation has a
            half of them.

    Raises:
        ConfigurationError: a hidden width below the features of one unit.

    >>> from contraflow.lipschitz import ConcatenatedSine
    >>> layer_widths(3, (8, 8), ConcatenatedSine(), preactivation=False)
    [(3, 4), (8, 4), (8, 3)]
    """
    factor = activation.width_factor
    if factor > 1 and any(width < factor for width in hidden):
        raise ConfigurationError(
            f"hidden widths {tuple(hidden)}: {type(activation).__name__} makes {factor} features of every unit and "
            f"needs hidden widths of at least {factor}."
        )
    units = [width // factor for width in hidden]
    inputs = [factor * data if preactivation else data, *(factor * width for width in units)]
    return list(zip(inputs, [*units, data], strict=True))


class LipschitzMLP(LipschitzNetwork):
    """Dense g for vectors, or for images flattened to vectors.

    Args:
        features: D, the dimension of the data.
        hidden: widths of the hidden layers, after concatenation where the activation concatenates.
        bound: c of each layer.
        activation: name in `ACTIVATIONS`, or an `Activation`.
        preactivation: begin with the activation.
        zero_start: factor of the last layer's initial weight; small values start near the identity.
        initialisation: default or orthogonal; ``None`` for orthogonal where the activation concatenates.
        norms: the norms that bound g: `Spectral()`, `MixedNorms((2, 3, 2))`, `LearnedNorms()`.

    >>> g = LipschitzMLP(2, (16, 16))
    >>> g(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        *,
        bound: float = 0.98,
        activation: str | Activation = "lipswish",
        preactivation: bool = True,
        zero_start: float = 1.0,
        initialisation: str | None = None,
        norms: Norms = _SPECTRAL,
    ) -> None:
        if not hidden:
            raise ConfigurationError("hidden=(): a dense g needs at least one hidden layer.")
        made = make_activation(activation)
        widths = layer_widths(features, hidden, made, preactivation=preactivation)
        orders = norms.orders(len(widths))
        pairs = zip(widths, layer_norms(orders, len(widths)), strict=True)
        layers = [LipschitzLinear(a, b, bound, norm) for (a, b), norm in pairs]
        super().__init__(layers, made, preactivation=preactivation, orders=orders)
        initialise(layers, initialisation, made, zero_start)
        self.features = features


class LipschitzConvNet(LipschitzNetwork):
    """Convolutional g, by default 3×3 → 1×1 → 3×3 as in the paper.

    Works in channels-last memory, where a 1×1 convolution is one plain matrix product.

    Args:
        channels: channels of the data.
        hidden: channels between the layers, after concatenation where the activation concatenates.
        size: (H, W).
        kernels: kernel sizes.
        bound, activation, preactivation, zero_start, initialisation, norms: as for `LipschitzMLP`.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        size: tuple[int, int],
        *,
        kernels: Sequence[int] = (3, 1, 3),
        bound: float = 0.98,
        activation: str | Activation = "lipswish",
        preactivation: bool = True,
        zero_start: float = 1.0,
        initialisation: str | None = None,
        norms: Norms = _SPECTRAL,
    ) -> None:
        made = make_activation(activation)
        widths = layer_widths(channels, [hidden] * (len(kernels) - 1), made, preactivation=preactivation)
        orders = norms.orders(len(kernels))
        places = zip(widths, kernels, layer_norms(orders, len(kernels)), strict=True)
        layers = [LipschitzConv2d(a, b, k, size, bound, norm) for (a, b), k, norm in places]
        super().__init__(layers, made, preactivation=preactivation, orders=orders)
        initialise(layers, initialisation, made, zero_start)

    def prepare(self, x: Tensor) -> Tensor:
        return channels_last(x)
