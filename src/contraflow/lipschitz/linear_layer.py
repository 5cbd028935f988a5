"""A linear map with a weight and a bias, as norms, passes and certificates use it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from contraflow.lipschitz.linear_operator import LinearOperator
from contraflow.numerics import BlockTridiagonal


class LinearLayer(nn.Module, ABC):
    """W x + b. Every product takes the weight that it uses, so that W can be scaled on the way.

    Args:
        weight: W, uninitialised.
        outputs: length of the bias.
    """

    #: (H, W) of the images that it acts on; (1, 1) for vectors.
    size: tuple[int, int] = (1, 1)
    #: N where the operator is one matrix at each of N pixels, and `operator` is that of one of them.
    copies: int = 1
    #: Whether `apply_each` costs one product for a stack of these layers, gradients included.
    stacks: bool = False

    def __init__(self, weight: Tensor, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=weight.dtype, device=weight.device))

    def initialise(self) -> None:
        """Weight and bias as in `torch.nn.Linear`."""
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

    @abstractmethod
    def spectral_method(self) -> str:
        """The method by which ‖·‖₂ is certified, in words."""

    def gram(self, weights: Tensor) -> BlockTridiagonal | None:
        """WᵀW for a stack of weights of this layer's shape, to certify them together; ``None`` where every layer is
        certified by itself, `certified_norm`."""
        return None

    def operator(self, weight: Tensor | None = None) -> LinearOperator:
        """The linear map as a value, by default at the raw weight; that of one pixel where there are `copies`."""
        size = self.size if self.copies == 1 else (1, 1)
        return LinearOperator(
            self.weight if weight is None else weight, self.apply_weight, self.transposed, size, self.copies
        )

    def operators(self, weights: Tensor) -> LinearOperator:
        """A stack of operators with weights of this layer's shape."""
        return replace(self.operator(weights), product=self.apply_each)
