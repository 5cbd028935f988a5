"""Activations with their Lipschitz constants.

Each is written φ(z) = b·φ₀(a·z) with gains a, b and a parameter-free core φ₀. The gains are folded into the weights
before and after (see `contraflow.lipschitz.network`), so that the passes over activations see the core alone: LipSwish
costs one `silu`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: max_z |d/dz z·σ(z)| = 1.09983932…, attained at z = 2.39936; independent of β; rounded up.
SWISH_LIPSCHITZ = 1.0998393202


class Activation(nn.Module, ABC):
    """φ(z) = output_gain · core(input_gain · z), applied to every element."""

    #: Lip(φ), a bound from above.
    lipschitz_constant: float = 1.0

    def input_gain(self) -> Tensor | None:
        """a, a scalar tensor; ``None`` stands for 1."""
        return None

    def output_gain(self) -> Tensor | None:
        """b, a scalar tensor; ``None`` stands for 1."""
        return None

    @abstractmethod
    def core(self, s: Tensor) -> Tensor:
        """φ₀(s); twice differentiable by autograd."""

    @abstractmethod
    def core_derivative(self, s: Tensor) -> Tensor:
        """φ₀'(s)."""

    @abstractmethod
    def core_second_derivative(self, s: Tensor) -> Tensor:
        """φ₀''(s)."""

    def core_dual(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """φ₀(s) and φ₀'(s)·t for tangents ``(probes, *s.shape)``; differentiable once."""
        return _CoreDual.apply(self, s, t)

    def forward(self, z: Tensor) -> Tensor:
        gain = self.input_gain()
        out = self.core(z if gain is None else z * gain)
        gain = self.output_gain()
        return out if gain is None else out * gain


class _CoreDual(torch.autograd.Function):
    """Closed-form backward of the dual activation: s̄ = φ₀'·ā + φ₀''·Σ_p t_p t̄_p,  t̄_in = φ₀'·t̄."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        derivative = activation.core_derivative(s)
        ctx.activation = activation
        ctx.save_for_backward(s, t, derivative)
        return activation.core(s), derivative * t

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor, grad_t: Tensor) -> tuple[Tensor | None, ...]:
        s, t, derivative = ctx.saved_tensors
        inner = t[0] * grad_t[0] if t.shape[0] == 1 else (t * grad_t).sum(dim=0)
        grad_s = ctx.activation.core_second_derivative(s).mul_(inner).addcmul_(derivative, grad_value)
        return None, grad_s, grad_t * derivative


class _SiluActivation(Activation):
    """Core silu(s) = s·σ(s), with learnable β = softplus(raw) > 0 as input gain; β starts at softplus(0.5) = 0.974."""

    def __init__(self) -> None:
        super().__init__()
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    @property
    def beta(self) -> Tensor:
        """β > 0."""
        return F.softplus(self.raw_beta)

    def input_gain(self) -> Tensor:
        return self.beta

    def core(self, s: Tensor) -> Tensor:
        return F.silu(s)

    def core_derivative(self, s: Tensor) -> Tensor:
        # σ + sσ(1-σ), in one pass
        return torch.ops.aten.silu_backward(s.new_ones(()).expand(s.shape), s)

    def core_second_derivative(self, s: Tensor) -> Tensor:
        # σ(1-σ)(2 + s(1-2σ))
        sigma = torch.sigmoid(s)
        slope = torch.addcmul(sigma, sigma, sigma, value=-1)
        return torch.addcmul(s + 2, s, sigma, value=-2).mul_(slope)


class LipSwish(_SiluActivation):
    r"""z·σ(βz)/1.1, the paper's activation: Lipschitz for every β, and its second derivative does not vanish where
    the first one is large.

    Its constant is 1.09984/1.1 = 0.99986. Chen et al. 2019 (arXiv:1906.02735), section 3.3.
    """

    lipschitz_constant = SWISH_LIPSCHITZ / 1.1

    def output_gain(self) -> Tensor:
        return 1 / (1.1 * self.beta)


class Swish(_SiluActivation):
    """z·σ(βz), with constant 1.09984: for the ablation. Ramachandran et al. 2017 (arXiv:1710.05941)."""

    lipschitz_constant = SWISH_LIPSCHITZ

    def output_gain(self) -> Tensor:
        return 1 / self.beta


class ELU(Activation):
    """z for z > 0, e^z - 1 otherwise; constant 1. Clevert et al. 2016 (arXiv:1511.07289)."""

    def core(self, s: Tensor) -> Tensor:
        return F.elu(s)

    def core_derivative(self, s: Tensor) -> Tensor:
        return s.clamp_max(0).exp()

    def core_second_derivative(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, torch.zeros_like(s), s.clamp_max(0).exp())


class Softplus(Activation):
    """log(1 + e^z); constant 1."""

    def core(self, s: Tensor) -> Tensor:
        return F.softplus(s)

    def core_derivative(self, s: Tensor) -> Tensor:
        return torch.sigmoid(s)

    def core_second_derivative(self, s: Tensor) -> Tensor:
        sigma = torch.sigmoid(s)
        return torch.addcmul(sigma, sigma, sigma, value=-1)


#: Name → class.
ACTIVATIONS: dict[str, type[Activation]] = {"lipswish": LipSwish, "swish": Swish, "elu": ELU, "softplus": Softplus}
