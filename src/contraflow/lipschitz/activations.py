"""Activations with their Lipschitz constants.

Each is written φ(z) = b·φ₀(a·z) with gains a, b and a parameter-free core φ₀. The gains are folded into the weights
before and after (see `contraflow.lipschitz.network`), so that the passes over activations see the core alone: LipSwish
costs one `silu`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: max_z |d/dz z·σ(z)| = 1.09983932…, attained at z = 2.39936; independent of β; rounded up.
SWISH_LIPSCHITZ = 1.0998393202

#: Elements a thread that an activation passes over several times before it goes on to the next ones.
_IN_CACHE = 1 << 16


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
    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """φ₀(s) and φ₀'(s) in as few passes over memory as possible; s may be overwritten. Not differentiable."""

    @abstractmethod
    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """φ₀'(s) and φ₀''(s), and φ₀(s) into `value`; s may be overwritten. Not differentiable."""

    def forward(self, z: Tensor) -> Tensor:
        gain = self.input_gain()
        out = self.core(z if gain is None else z * gain)
        gain = self.output_gain()
        return out if gain is None else out * gain


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

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        # One sigmoid for both: φ₀ = sσ, φ₀' = φ₀ + σ(1 - φ₀).
        slope = torch.empty_like(s)
        for part, slope_part in _parts(s, slope):
            sigma = torch.sigmoid(part)
            torch.lerp(part.mul_(sigma), _one(part), sigma, out=slope_part)
        return s, slope

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        # φ₀'' = (σ - 1)(φ₀ - 2φ₀')
        slope = torch.empty_like(s)
        for part, value_part, slope_part in _parts(s, value, slope):
            sigma = torch.sigmoid(part)
            torch.mul(part, sigma, out=value_part)
            torch.lerp(value_part, _one(part), sigma, out=slope_part)
            torch.add(value_part, slope_part, alpha=-2, out=part).mul_(sigma.sub_(1))
        return slope, s


def _one(like: Tensor) -> Tensor:
    return like.new_ones(()).expand(like.shape)


def _parts(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Rows of each, few enough on a processor that several passes over them stay in its cache."""
    rows, row = tensors[0].shape[0], tensors[0].shape[1:].numel()
    if tensors[0].device.type != "cpu" or not isinstance(rows, int):  # an export keeps the number of rows open
        return [tensors]
    few = max(1, _IN_CACHE * torch.get_num_threads() // row)
    return [tensors] if rows <= few else zip(*(tensor.split(few) for tensor in tensors), strict=True)


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

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return F.elu(s), s.clamp_max_(0).exp_()

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        value.copy_(F.elu(s))
        slope = s.clamp_max(0).exp_()
        return slope, slope.masked_fill(s > 0, 0)


class Softplus(Activation):
    """log(1 + e^z); constant 1."""

    def core(self, s: Tensor) -> Tensor:
        return F.softplus(s)

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(s), torch.sigmoid(s)

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        value.copy_(F.softplus(s))
        slope = torch.sigmoid(s)
        return slope, torch.addcmul(slope, slope, slope, value=-1)


#: Name → class.
ACTIVATIONS: dict[str, type[Activation]] = {"lipswish": LipSwish, "swish": Swish, "elu": ELU, "softplus": Softplus}
