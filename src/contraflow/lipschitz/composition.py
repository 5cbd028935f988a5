"""g = W_n φ_n(… W_1 φ_1(x)) as its passes see it: layers and activations in turn, and names for its flat tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from contraflow.lipschitz.activations import Activation
from contraflow.lipschitz.soft_normalisation import LipschitzLayer


class LayerTensors(NamedTuple):
    """The tensors of one layer, with the gains of the activations around it folded into scale and bias.

    Attributes:
        weight: W as it is.
        scale: of W, in a shape that broadcasts against it; a scalar under one norm of the whole layer.
        bias: b.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor


class NetworkTensors(NamedTuple):
    """The tensors of g by name. Autograd functions take and return the flat sequence.

    What belongs to every tensor, such as whether its gradient is wanted, goes by the same names.

    Attributes:
        gain: input gain of the activation before the first layer, in a shape that broadcasts against x; else 1.
        layers: tensors of every layer.
    """

    gain: Tensor
    layers: list[LayerTensors]

    @classmethod
    def named(cls, flat: Sequence[Any]) -> NetworkTensors:
        """The view of a flat sequence."""
        return cls(flat[0], grouped(LayerTensors, flat[1:]))

    def flat(self) -> tuple[Tensor, ...]:
        """Gain, then weight, scale and bias of every layer."""
        return (self.gain, *itertools.chain.from_iterable(self.layers))

    def scaled_weights(self) -> list[Tensor]:
        """The weight of every layer times its scale."""
        return [layer.weight * layer.scale for layer in self.layers]


class Step(NamedTuple):
    """A layer with the activation before it, its scaled weight and its bias."""

    layer: LipschitzLayer
    activation: Activation | None
    weight: Tensor
    bias: Tensor


class Composition(NamedTuple):
    """The maps of g, without the tensors that they are evaluated at.

    Attributes:
        layers: W_1 … W_n.
        activations: that before every layer; ``None`` where g begins with a layer.
        prepare: brings x into the memory layout that the layers like best.
    """

    layers: Sequence[LipschitzLayer]
    activations: Sequence[Activation | None]
    prepare: Callable[[Tensor], Tensor]

    def begin(self, gain: Tensor, x: Tensor) -> Tensor:
        """What reaches the first layer, or the activation before it."""
        h = self.prepare(x)
        return h if self.activations[0] is None else h * gain

    def steps(self, tensors: NetworkTensors, weights: Sequence[Tensor]) -> list[Step]:
        """The layers in their order, at these tensors with their scaled weights."""
        biases = [layer.bias for layer in tensors.layers]
        return list(map(Step, self.layers, self.activations, weights, biases))


def grouped(kind: Any, flat: Sequence[Any]) -> list[Any]:
    """Consecutive members of a flat sequence as named tuples of that kind.

    >>> grouped(LayerTensors, range(6))[1].scale
    4
    """
    size = len(kind._fields)
    return [kind(*flat[start : start + size]) for start in range(0, len(flat), size)]
