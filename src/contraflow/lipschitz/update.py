"""The Lipschitz update of a whole flow at a moment that the caller chooses, and the rescaling to certified norms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from contraflow.errors import DomainError
from contraflow.lipschitz.bounds.balance import Densities
from contraflow.lipschitz.dense_concatenation import DenseConcatenation
from contraflow.lipschitz.network import LipschitzNetwork
from contraflow.lipschitz.operator_norms import InducedNorm
from contraflow.lipschitz.soft_normalisation import (
    THOROUGH,
    LipschitzLayer,
    by_kind,
    lipschitz_layers,
    refresh,
    remember,
)
from contraflow.numerics import norm_from_above

#: Relative distance from the power iteration's estimate at which a bound is tried first along training.
TRAINING_GAP = 5e-3

#: Certified bound over estimate above which the power iteration counts as stuck at a smaller singular value.
_STUCK = 1.03

#: Relative allowance for densities that a certificate finds anew, from the normalised weight and in float64.
_ORDERS = 1e-4


def update_lipschitz(
    module: nn.Module, *, tolerance: float = 1e-4, max_iterations: int = 50, certified: bool = False
) -> None:
    r"""Refresh v of every bounded layer by warm-started power iteration, now.

    A flow does this by itself when it is evaluated after its weights have moved. Call it to choose the moment: before
    a CUDA graph is captured, at the same point on every rank, or with other limits. The next evaluation then has
    nothing to refresh. Layers of equal shape under the spectral norm run as one batch of products.

    W / max(1, σ/c) with the power iteration's σ, an estimate from below, may leave a layer above its bound c; after a
    large step by several per cent. With ``certified=True`` the weights are divided by a bound from above instead,
    W / max(1, u/c) with u >= ‖W‖₂ proved by a Cholesky factor of u²I - WᵀW in float64, so that no layer exceeds its c
    at any moment; u is at most 1 % above the norm. Its gradient is that of σ. Under other norms u >= ‖W‖_{p→q} is a
    power of the certified spectral norm of a balanced W; the gradient, to learned orders too, is that of this bound.
    Cost and derivation: docs/decisions/003-certified-training.md, docs/maths/lipschitz-bounds.md, induced-norms.md.

    Args:
        module: a flow or any module with bounded layers inside.
        tolerance: relative change of σ at which the iteration stops; a layer that was never used before starts with
            a thorough iteration instead.
        max_iterations: most iterations a call.
        certified: normalise by a certified bound from above instead of the estimate from below.

    Raises:
        DomainError: weights in half precision, or under autocast, which would round norms.
    """
    for layers in by_kind(lipschitz_layers(module)):
        refresh(layers, tolerance, max_iterations)
        if certified:
            _certify_stack(layers)
        else:
            for layer in layers:
                layer.by_estimate()
        remember(layers)


@torch.no_grad()
def _certify_stack(layers: list[LipschitzLayer], gap: float = TRAINING_GAP) -> None:
    """Set excess = u/σ of layers of one kind, with u >= ‖W‖₂ certified; 1 where u <= c and nothing is divided."""
    if not layers[0].norm.iterative:  # exact already
        return
    if isinstance(layers[0].norm, InducedNorm):
        _certify_induced(layers, gap)
        return
    bounds = torch.tensor([layer.bound for layer in layers], dtype=torch.float64, device=layers[0].weight.device)
    sigma = _estimates(layers)
    norms = _spectral_bounds(layers, [layer.weight for layer in layers], sigma, gap, bounds)
    divided = norms > bounds
    stuck = (divided & (norms > _STUCK * sigma)).nonzero()[:, 0].tolist()
    for index in stuck:
        layers[index].begin_anew()
    if stuck:
        refresh([layers[index] for index in stuck], *THOROUGH)
        sigma = _estimates(layers)  # the bound u stands; only the direction of its gradient was wrong
    excess = torch.where(divided, norms / sigma * (1 + rounding(layers[0])), torch.ones_like(norms))
    for layer, value in zip(layers, excess.tolist(), strict=True):
        layer.excess = value


def _certify_induced(layers: list[LipschitzLayer], gap: float) -> None:
    """The same for ‖W‖_{p→q}: excess is certified bound over `OperatorNorm.measure`."""
    cases: list[tuple[LipschitzLayer, InducedNorm, Densities]] = []
    for layer in layers:
        assert isinstance(layer.norm, InducedNorm)
        layer.by_estimate()
        cases.append((layer, layer.norm, layer.norm.find_densities(layer.operator(), layer.v)))
    balanced = [norm.balanced_exactly(layer.operator(), densities) for layer, norm, densities in cases]
    weights = [operator.weight for operator in balanced]
    sigma = torch.stack(
        [
            layer.apply_weight(weight, densities.v.double()).norm() / densities.v.double().norm()
            for weight, (layer, _, densities) in zip(weights, cases, strict=True)
        ]
    )
    bounds = _spectral_bounds([layer for layer, _, _ in cases], weights, sigma, gap).tolist()
    for (layer, norm, densities), operator, bound in zip(cases, balanced, bounds, strict=True):
        layer.densities = densities
        _exceed(layer, bound ** float(operator.exponent) * float(norm.copies_factor(layer.operator())) * (1 + _ORDERS))


def _exceed(layer: LipschitzLayer, bound: float) -> None:
    """Set excess so that the divisor is bound / c; 1 where that is below one and nothing is divided."""
    measure = layer.measure().item()
    layer.excess = bound / measure * (1 + rounding(layer)) if bound > layer.bound else 1.0


def _spectral_bounds(
    layers: list[LipschitzLayer], weights: list[Tensor], sigma: Tensor, gap: float, target: Tensor | None = None
) -> Tensor:
    """Certified spectral norms of weights of one shape, each in its layer's place, with estimates from below."""
    gram = layers[0].gram(torch.stack(weights))
    if gram is not None:
        return norm_from_above(gram, sigma, gap, target)
    norms = [layer.certified_norm(weight) for layer, weight in zip(layers, weights, strict=True)]
    return torch.tensor(norms, dtype=torch.float64).to(sigma.device)


def _estimates(layers: list[LipschitzLayer]) -> Tensor:
    return torch.stack([layer.sigma() for layer in layers]).double()


def rounding(layer: LipschitzLayer) -> float:
    """A bound on the relative error that rounding of the divided weights adds to their norm.

    Element by element it is two units in the last place; ‖ΔW‖₂ <= k‖ΔK‖_F for a kernel K, and ‖K‖_F <= √rank · ‖W‖₂.
    """
    shape = layer.weight.shape
    size = shape[-1] if len(shape) == 4 else 1
    return 2 * torch.finfo(layer.weight.dtype).eps * size * math.sqrt(min(shape[0], shape[1]) * size * size) + 1e-7


@torch.no_grad()
def rescale_to_certificate(module: nn.Module) -> int:
    r"""Scale down, in place, every layer whose certified norm exceeds its bound c, so that it does not.

    The raw weight becomes W̄·min(1, c/u) with W̄ the normalised weight and u >= ‖W̄‖₂ its certified norm. Afterwards
    ``layer.lipschitz_bound() <= layer.bound`` holds for every layer, however good its power iteration is: no layer is
    divided by an estimate any more, whose last digit changes when its v is refreshed.

    Args:
        module: a flow or any module with bounded layers inside.

    Returns:
        The number of layers that were changed.

    Raises:
        DomainError: a weight is not finite; half precision as for `update_lipschitz`.

    >>> from contraflow.lipschitz import LipschitzMLP
    >>> g = LipschitzMLP(2, (8, 8))
    >>> _ = rescale_to_certificate(g)
    >>> all(layer.lipschitz_bound() <= layer.bound for layer in g.layers), rescale_to_certificate(g)
    (True, 0)
    """
    return sum(_rescale(layer) for layer in lipschitz_layers(module))


def _rescale(layer: LipschitzLayer) -> bool:
    changed = False
    while (certified := layer.certify()) > layer.bound or (layer.norm.iterative and bool((layer.divisor() > 1).any())):
        if not math.isfinite(certified):
            raise DomainError(f"{layer}: its weights hold NaN or infinity, so no bound can be computed.")
        layer.weight.copy_(layer.normalised() * (min(1.0, layer.bound / certified) / (1 + rounding(layer))))
        layer.by_estimate()
        changed = True
    return changed


def mean_norm(module: nn.Module) -> Tensor:
    """The mean of σ over all layers whose orders are trained by it, `LearnedNorms`; 0 where there are none.

    Its gradient goes to the orders alone: add it to the loss. Weights enter as they are, before normalisation.
    """
    norms = [
        sigma
        for layer in lipschitz_layers(module)
        if isinstance(layer.norm, InducedNorm)
        and (sigma := layer.norm.for_mean_norm(layer.operator(), layer.v.clone())) is not None
    ]
    return torch.stack(norms).mean() if norms else torch.zeros(())


@torch.no_grad()
def largest_rescaling(rescaled: nn.Module, original: nn.Module) -> float:
    """The largest share that `rescale_to_certificate` took off a layer's norm; `original` is the module before it."""
    pairs = zip(lipschitz_layers(rescaled), lipschitz_layers(original), strict=True)
    ratios = [(now.normalised().norm() / before.normalised().norm()).item() for now, before in pairs]
    return max((1 - ratio for ratio in ratios), default=0.0)


@torch.no_grad()
def largest_estimate(module: nn.Module) -> float:
    """The largest Lipschitz estimate of a block, from below, by min(σ_l, c) of every layer; 0 without any block."""
    networks = [g for g in module.modules() if isinstance(g, (LipschitzNetwork, DenseConcatenation))]
    return max((g.lipschitz_estimate() for g in networks), default=0.0)
