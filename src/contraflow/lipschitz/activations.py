"""Activations with their Lipschitz constants.

Each is written φ(z) = b·φ₀(a·z) with gains a, b and a parameter-free core φ₀. The gains are folded into the weights
before and after (see `contraflow.lipschitz.network`), so that the passes over activations see the core alone: LipSwish
costs one `silu`. Concatenating activations make several features of every unit. Constants: docs/maths/activations.md.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import DomainError

#: max_z |d/dz z·σ(z)| = 1.09983932…, attained at z = 2.39936; independent of β; rounded up.
SWISH_LIPSCHITZ = 1.0998393202

#: The divisors of LipSwish and of the concatenation of two.
CLIPSWISH_DIVISOR = 1.1 * 1.004

#: Lip of CLipSwish in ‖·‖₂, 0.99997.
CLIPSWISH_LIPSCHITZ = math.hypot(SWISH_LIPSCHITZ, SWISH_LIPSCHITZ - 1) / CLIPSWISH_DIVISOR

#: -min_t P'(t) of Pila with k = 1, 19 e⁻⁴ at t = -4; rounded up.
_PILA_STEEPEST_FALL = 0.3479971389

#: Elements a thread that an activation passes over several times before it goes on to the next ones.
_IN_CACHE = 1 << 16


class Activation(nn.Module, ABC):
    """φ(z) = output_gain · core(input_gain · z), applied to every unit (dimension 1) on its own.

    A concatenating activation makes m = `width_factor` features of every unit, n units ↦ m·n features in m blocks
    along dimension 1.
    """

    #: Lip(φ) in ‖·‖₂, of all features together; a bound from above.
    lipschitz_constant: float = 1.0

    #: m, the number of features that it makes of a unit.
    width_factor: int = 1

    def lipschitz_in(self, p: float) -> float:
        """Lip(φ) from ‖·‖_p to ‖·‖_p, a bound from above; the same for every p where m = 1."""
        return self.lipschitz_constant

    def for_units(self, units: int) -> Activation:
        """A copy, with parameters of its own, for so many units."""
        return copy.deepcopy(self)

    def input_gain(self) -> Tensor | None:
        """a, a scalar tensor or one number a unit; ``None`` stands for 1."""
        return None

    def output_gain(self) -> Tensor | None:
        """b, a scalar tensor or one number a feature; ``None`` stands for 1."""
        return None

    @abstractmethod
    def core(self, s: Tensor) -> Tensor:
        """φ₀(s); twice differentiable by autograd."""

    @abstractmethod
    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """φ₀(s) and the derivative of every feature in its unit, in as few passes over memory as possible.

        s may be overwritten. Not differentiable.
        """

    @abstractmethod
    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of every feature in its unit, and φ₀(s) into `value`.

        s may be overwritten. Not differentiable.
        """

    def forward(self, z: Tensor) -> Tensor:
        gain = self.input_gain()
        out = self.core(z if gain is None else z * along_units(gain, z.ndim - 2))
        gain = self.output_gain()
        return out if gain is None else out * along_units(gain, z.ndim - 2)


def along_units(gain: Tensor, dimensions: int) -> Tensor:
    """A gain with one number a unit, with so many dimensions of size 1 after it; a scalar as it is."""
    return gain.view(-1, *[1] * dimensions) if gain.ndim else gain


def repeated_gain(gain: Tensor, times: int) -> Tensor:
    """A gain for every feature from one for every unit; a scalar as it is."""
    return torch.cat([gain] * times) if gain.ndim and times > 1 else gain


def widened_like(s: Tensor, factor: int) -> Tensor:
    """An uninitialised tensor with `factor` features for every unit of s, images in channels-last memory."""
    if factor == 1:
        return torch.empty_like(s)
    return s.new_empty(len(s), *s.shape[2:], factor * s.shape[1]).movedim(-1, 1)


def repeated_units(t: Tensor, factor: int) -> Tensor:
    """t ↦ (t, …, t) along dimension 1: a tangent of the units at every feature."""
    return torch.cat([t] * factor, dim=1) if factor > 1 else t


def summed_features(y: Tensor, factor: int) -> Tensor:
    """(y₁, …, y_m) ↦ Σ y_i along dimension 1, the adjoint of `repeated_units`."""
    first, *others = y.chunk(factor, dim=1)
    return sum(others, start=first)


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


class CLipSwish(_SiluActivation):
    r"""[φ(z), φ(-z)]/1.004 with φ = LipSwish: two features a unit, whose slopes are never small together.

    Its constant is 0.99997, not twice that of a half. Y. Perugachi-Diaz, J. M. Tomczak, S. Bhulai, "Invertible
    DenseNets with concatenated LipSwish", 2021 (arXiv:2102.02694).
    """

    lipschitz_constant = CLIPSWISH_LIPSCHITZ
    width_factor = 2

    def lipschitz_in(self, p: float) -> float:
        # With a = silu'(s) the slopes are (a, a - 1): |a|^p + |a - 1|^p is convex in a, so largest at the ends of its
        # range [1 - M, M], where it is equal.
        return _p_norm((SWISH_LIPSCHITZ, SWISH_LIPSCHITZ - 1), p) / CLIPSWISH_DIVISOR

    def output_gain(self) -> Tensor:
        return 1 / (CLIPSWISH_DIVISOR * self.beta)

    def core(self, s: Tensor) -> Tensor:
        value = F.silu(s)
        return torch.cat([value, value - s], dim=1)  # silu(-s) = silu(s) - s

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = super().core_with_slope(s.clone())
        return torch.cat([value, value - s], dim=1), torch.cat([slope, slope - 1], dim=1)

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        up, down = value.chunk(2, dim=1)
        part = torch.empty_like(s)
        slope, curvature = super().core_with_curvature(s.clone(), part)
        up.copy_(part)
        torch.sub(part, s, out=down)
        return torch.cat([slope, slope - 1], dim=1), torch.cat([curvature, curvature], dim=1)


class ConcatenatedSine(Activation):
    r"""z ↦ (sin ωz, cos ωz)/ω with a learnable frequency ω > 0 for every unit: two features a unit.

    The two slopes, cos ωz and -sin ωz, have squares that add up to 1. So the Jacobian has orthonormal columns
    everywhere: its Lipschitz constant is exactly 1, every tangent keeps its length, and no gradient vanishes.

    Args:
        frequency: ω at the start.
        units: number of units; ``None`` for one ω that all units share.

    >>> activation = ConcatenatedSine(frequency=2.0, units=3)
    >>> activation(torch.zeros(1, 3)).tolist()
    [[0.0, 0.0, 0.0, 0.5, 0.5, 0.5]]
    """

    width_factor = 2

    def __init__(self, frequency: float = 1.0, units: int | None = None) -> None:
        super().__init__()
        if not frequency > 0:
            raise DomainError(f"frequency={frequency}: the frequency of a sine is positive.")
        self.log_frequency = nn.Parameter(torch.full(() if units is None else (units,), math.log(frequency)))

    def lipschitz_in(self, p: float) -> float:
        # max_s |cos s|^p + |sin s|^p is 1 for p >= 2, else at s = π/4.
        return max(1.0, 2 ** (1 / p - 0.5))

    def for_units(self, units: int) -> ConcatenatedSine:
        copied = copy.deepcopy(self)
        copied.log_frequency = nn.Parameter(self.log_frequency.detach().expand(units).clone())
        return copied

    def input_gain(self) -> Tensor:
        return self.log_frequency.exp()

    def output_gain(self) -> Tensor:
        return repeated_gain((-self.log_frequency).exp(), 2)

    def core(self, s: Tensor) -> Tensor:
        return torch.cat([s.sin(), s.cos()], dim=1)

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        value = widened_like(s, 2)
        return value, self._slope(s, value)

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        slope = self._slope(s, value)
        return slope, -value

    @staticmethod
    def _slope(s: Tensor, value: Tensor) -> Tensor:
        """(cos s, -sin s), and (sin s, cos s) into `value`."""
        sine, cosine = value.chunk(2, dim=1)
        torch.sin(s, out=sine)
        torch.cos(s, out=cosine)
        return torch.cat([cosine, -sine], dim=1)


class CPila(Activation):
    r"""[P(z - 1/k), P(-z - 1/k)]/1.06 with P(t) = t for t > 0, (k²t³/2 - kt² + t) e^{kt} otherwise, k = 5.

    Two features a unit, whose slopes are never small together; three times continuously differentiable. Its constant
    is √(1 + (19 e⁻⁴)²)/1.06 = 0.99889 for every k. B. Ahn, C. Kim, Y. Hong, H. J. Kim, "Invertible monotone operators
    for normalizing flows", 2022 (arXiv:2210.08176).
    """

    lipschitz_constant = math.hypot(1, _PILA_STEEPEST_FALL) / 1.06
    width_factor = 2
    k: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("k", torch.tensor(5.0), persistent=False)

    def lipschitz_in(self, p: float) -> float:
        return _cpila_lipschitz(p)

    def input_gain(self) -> Tensor:
        return self.k

    def output_gain(self) -> Tensor:
        return 1 / (1.06 * self.k)

    def core(self, s: Tensor) -> Tensor:
        t = torch.cat([s, -s], dim=1) - 1
        below, exponential = _below_zero(t)
        return F.relu(t) + _pila_below(below, exponential)

    def core_with_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        value = widened_like(s, 2)
        slope, _ = self.core_with_curvature(s, value)
        return value, slope

    def core_with_curvature(self, s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.cat([s, -s], dim=1).sub_(1)
        below, exponential = _below_zero(t)
        value.copy_(t.relu_().add_(_pila_below(below, exponential)))
        slope = _pila_slope(below, exponential)
        slope.chunk(2, dim=1)[1].neg_()
        return slope, exponential.mul_(below.square()).mul_(below / 2 + 2)


@functools.lru_cache
def _cpila_lipschitz(p: float) -> float:
    # For |s| >= 1 one slope is 1 and the other between -19 e⁻⁴ and e⁻². In between both are values of P' on [-2, 0],
    # where it rises: its values at the ends of small intervals bound it on all of them.
    beyond = _p_norm((1, _PILA_STEEPEST_FALL), p)
    t = torch.linspace(-2, 0, 2001, dtype=torch.float64, device="cpu")
    rising = _pila_slope(t, t.exp()).tolist()
    within = max(_p_norm(pair, p) for pair in zip(rising[1000:0:-1], rising[1001:], strict=True))
    return max(beyond, within) / 1.06


def _below_zero(t: Tensor) -> tuple[Tensor, Tensor]:
    """min(t, 0), where its exponential is 0 at most -1000, so that no power of it overflows; and its exponential."""
    below = t.clamp(-1000, 0)
    return below, below.exp()


def _pila_below(t: Tensor, exponential: Tensor) -> Tensor:
    """P(t) for t <= 0 and k = 1."""
    return ((t / 2 - 1) * t + 1) * t * exponential


def _pila_slope(t: Tensor, exponential: Tensor) -> Tensor:
    """P'(t) for t <= 0 and k = 1; 1 at t = 0."""
    return (((t + 1) * t / 2 - 1) * t + 1) * exponential


def _p_norm(values: Iterable[float], p: float) -> float:
    if p == math.inf:
        return max(map(abs, values))
    return sum(abs(value) ** p for value in values) ** (1 / p)


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
ACTIVATIONS: dict[str, type[Activation]] = {
    "lipswish": LipSwish,
    "concatenated_sine": ConcatenatedSine,
    "clipswish": CLipSwish,
    "cpila": CPila,
    "swish": Swish,
    "elu": ELU,
    "softplus": Softplus,
}
