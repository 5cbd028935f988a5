"""Soft normalisation W / max(1, σ(W)/c), computed from the weights in use at every evaluation.

σ is the norm at a direction v that power iteration keeps. The scale 1 / max(1, σ/c) is never stored: every evaluation
computes it from weight and v, with a graph of its own. Only v can be out of date, where the weight has changed since
the iteration. So every evaluation first checks whether each v still belongs to its weight, and refreshes those that do
not, layers of equal shape as one batch. Norms by rows or columns are exact and use no v.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from contraflow.errors import DomainError
from contraflow.inputs import refuse_half
from contraflow.lipschitz.bounds.balance import Densities
from contraflow.lipschitz.bounds.induced import induced_method
from contraflow.lipschitz.linear_layer import LinearLayer
from contraflow.lipschitz.operator_norms import OperatorNorm, SpectralNorm, lengths
from contraflow.numerics import is_batched, transforms_active, without_transforms

#: Relative change of σ at which the iteration stops, and most iterations: of a thorough search for v, and of a search
#: that follows small steps of the weight.
THOROUGH = (1e-6, 500)
WARM = (1e-4, 50)

#: Relative change of ‖W v‖ or ‖W‖_F from which a weight counts as changed, above the rounding of either in float32, and
#: from which it counts as replaced. (Fused optimisers do not raise a weight's version.)
_CHANGED = 1e-4
_REPLACED = 0.1
_TINY = 1e-30

_LOCK = threading.RLock()

#: Scales of the evaluation that is under way, by layer.
_shared: ContextVar[dict[LipschitzLayer, Tensor] | None] = ContextVar("scales of this evaluation", default=None)


class Seen(NamedTuple):
    """The weight that v was computed for. A copy of a layer, whose weight is another tensor, starts without one.

    Attributes:
        version: of the weight, and of the norm's orders; an optimiser's step changes it.
        values: ‖W v‖/‖v‖ and ‖W‖_F, which reveal changes that leave the version: ``weight.data.mul_``, another tensor
            in place of the weight, an overwritten v.
    """

    version: Any
    values: tuple[float, float]

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


class LipschitzLayer(LinearLayer):
    r"""A linear map with soft normalisation of its operator norm to `bound`: divided only where σ is above it.

    σ = ‖W v‖₂ / ‖v‖₂ with v the right singular vector of the power iteration, kept as a buffer for a warm start; at
    fixed v its gradient is u vᵀ. Another norm than the spectral one brings its own σ and iteration. v is refreshed
    before the layer is used, whatever changed its weight; `contraflow.lipschitz.update_lipschitz` chooses the moment.

    Args:
        weight: the raw weight.
        outputs: length of the bias.
        start: shape of v.
        bound: c in (0, 1].
        norm: `SpectralNorm` by default, or an `InducedNorm`.
    """

    v: Tensor

    def __init__(
        self, weight: Tensor, outputs: int, start: tuple[int, ...], bound: float, norm: OperatorNorm | None = None
    ) -> None:
        super().__init__(weight, outputs)
        if not 0 < bound <= 1:
            raise DomainError(f"bound={bound}: the Lipschitz bound of a layer lies in (0, 1].")
        self.bound = bound
        self.norm = norm if norm is not None else SpectralNorm()
        self.register_buffer("v", torch.randn(1, *start, dtype=weight.dtype, device=weight.device))
        #: Whether v is a warm start; else the next refresh is a thorough search.
        self.warm = False
        #: Certified norm over estimate, at least 1: what a certified update of `update_lipschitz` multiplies σ by.
        self.excess = 1.0
        #: Densities of a certified update under an induced norm; ``None`` after an update by estimates.
        self.densities: Densities | None = None
        self.seen: Seen | None = None
        self._certified: tuple[Any, float] | None = None
        self.register_load_state_dict_post_hook(_on_load)
        self.initialise()

    def method(self) -> str:
        """How the norm of the layer is certified, in words."""
        orders = self.norm.orders()
        return self.spectral_method() if orders == (2, 2) else induced_method(*orders)

    def sigma(self) -> Tensor:
        """The estimate of the raw weight's norm at v, from below; a scalar with gradient."""
        return self.norm.sigma(self.operator(), self.v.clone())[0]  # the graph keeps v, which changes in place

    def measure(self) -> Tensor:
        """σ, or after a certified update a bound; of every row or column under a `ChannelwiseNorm`."""
        return self.norm.measure(self.operator(), self.v.clone(), self.densities)[0]

    def divisor(self) -> Tensor:
        """max(1, σ/c), with σ raised to a certified bound after a certified update; broadcasts against the weight."""
        return (self.measure() * (self.excess / self.bound)).clamp_min(1)

    def normalised_sigma(self) -> Tensor:
        """The estimate of the divided weight's norm at v as it is."""
        return self.norm.sigma(self.operator(self.weight / self.divisor()), self.v)[0]

    def scale(self) -> Tensor:
        """1 / max(1, σ/c) of the weight as it is, with gradient; v is refreshed first where the weight has moved."""
        return current_scales([self])[0]

    def normalised(self) -> Tensor:
        """W / max(1, σ/c) of the weight as it is, with gradient."""
        return self.weight * self.scale()

    @torch.no_grad()
    def certify(self) -> float:
        """The certified norm of the normalised weight, from above, between the norms of the layer; computed now."""
        return self.certified_norm(self.normalised(), *self.norm.orders())

    @torch.no_grad()
    def lipschitz_bound(self) -> float:
        """The same, cached until weight, v or norm change, for solvers that use it at every call."""
        self.scale()
        key = self.bound, self.excess, self.norm.version(), *_values([self], None)[0]
        if self._certified is None or self._certified[0] != key:
            self._certified = key, self.certify()
        return self._certified[1]

    def accept(self, v: Tensor) -> None:
        """Replace v by a refreshed one; a zero vector is ignored."""
        with torch.no_grad():
            accepted = torch.where(v.any(), v, self.v)  # without reading a value back from a GPU
            if transforms_active() or self.v.is_inference():
                self.v = without_transforms(accepted)
            else:
                self.v.copy_(accepted)
        self.warm = True

    @torch.no_grad()
    def converge(self, tolerance: float = THOROUGH[0], max_iterations: int = THOROUGH[1]) -> None:
        """A thorough search for v, in place."""
        self.start()
        _iterate([self], tolerance, max_iterations, thorough=True)

    def start(self) -> None:
        """A new v where the present one is not finite or zero."""
        if not bool(self.v.isfinite().all()) or not bool(self.v.any()):
            self.accept(self._noise())

    def begin_anew(self) -> None:
        """Make the next refresh a thorough search, from a v with a component in every direction.

        v may be nearly orthogonal to the top singular vector of a weight that has jumped. σ then stays at a smaller
        singular value, where the stopping rule is satisfied.
        """
        self.start()
        self.accept(self.v / lengths(self.v)[0] + self._noise())
        self.warm = False

    def _noise(self) -> Tensor:
        # From numpy, which torch.func.vmap allows; always the same, so that runs can be repeated and resumed.
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal(self.v.shape)).to(self.v)
        return noise / noise.norm()

    def by_estimate(self) -> None:
        """Drop the results of a certified update: the weight is divided by σ alone."""
        self.excess, self.densities = 1.0, None

    def remember(self, values: tuple[float, float]) -> None:
        """Record that v belongs to the present weight."""
        self.seen = Seen(self._trace(), values)

    def stepped(self) -> bool:
        """Whether the version of the weight or of the norm has changed since v was computed."""
        return self.seen is None or self.seen.version != self._trace()

    def change(self, values: tuple[float, float]) -> float:
        """The relative change of ‖W v‖/‖v‖ and ‖W‖_F since v was computed; infinite where it never was."""
        if self.seen is None:
            return math.inf
        pairs = zip(values, self.seen.values, strict=True)
        return max(0.0 if now == then else abs(now - then) / max(abs(then), _TINY) for now, then in pairs)

    def _trace(self) -> Any:
        weight = without_transforms(self.weight)
        return 0 if weight.is_inference() else weight._version, self.norm.version()

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.normalised(), self.bias, x)


def _on_load(layer: nn.Module, incompatible: Any) -> None:
    assert isinstance(layer, LipschitzLayer)
    layer.seen = None
    layer.by_estimate()
    # A checkpoint with v is a warm start; weights from elsewhere, without v, are not.
    layer.warm = not any(key.rsplit(".", 1)[-1] == "v" for key in incompatible.missing_keys)


def lipschitz_layers(module: nn.Module) -> list[LipschitzLayer]:
    """The bounded layers of a module, in order."""
    return [layer for layer in module.modules() if isinstance(layer, LipschitzLayer)]


def by_kind(layers: Sequence[LipschitzLayer]) -> list[list[LipschitzLayer]]:
    """Groups of layers that can be processed as one stack.

    Raises:
        DomainError: weights in half precision, or under autocast, which would round norms.
    """
    kinds: dict[tuple, list[LipschitzLayer]] = defaultdict(list)
    for layer in layers:
        weight = layer.weight
        kinds[type(layer), type(layer.norm), layer.size, weight.shape, weight.dtype, weight.device].append(layer)
    for layer, *_ in kinds.values():
        refuse_half(layer.weight.dtype, layer.weight.device)
    return list(kinds.values())


def current_scales(layers: Sequence[LipschitzLayer]) -> list[Tensor]:
    """1 / max(1, σ/c) of every layer, from its weight as it is, with a graph of its own to the weights.

    A scalar, or under a `ChannelwiseNorm` ``(out, 1, …)`` or ``(1, in, …)``: it broadcasts against the weight.

    Layers whose v does not belong to their weight are refreshed first, those of one shape as one batch. Inside
    `shared_scales` the scales of that evaluation are taken.

    Raises:
        DomainError: weights in half precision, or under autocast.
    """
    shared = _shared.get()
    if shared is not None and all(layer in shared for layer in layers):
        return [shared[layer] for layer in layers]
    scales = _compute_scales(layers)
    return [scales[layer] for layer in layers]


@contextmanager
def shared_scales(module: nn.Module) -> Iterator[None]:
    """Compute the scales of all layers of the module once; inside the context every use of a layer takes them."""
    if _shared.get() is not None:
        yield
        return
    token = _shared.set(_compute_scales(lipschitz_layers(module)))
    try:
        yield
    finally:
        _shared.reset(token)


@torch.compiler.disable
def _compute_scales(layers: Sequence[LipschitzLayer]) -> dict[LipschitzLayer, Tensor]:
    scales: dict[LipschitzLayer, Tensor] = {}
    with _LOCK:  # threads may share a flow
        for kind in by_kind(layers):
            scales.update(zip(kind, _scales_of_kind(kind), strict=True))
    return scales


def _scales_of_kind(layers: list[LipschitzLayer]) -> Sequence[Tensor]:
    if not layers[0].norm.iterative:
        return [layer.divisor().reciprocal() for layer in layers]
    if any(is_batched(layer.weight) for layer in layers):
        measures = torch.cat([layer.norm.unseen(layer.operator(), layer.v) for layer in layers])
    else:
        # Every product recorded here must stay in the graph: activation checkpointing counts saved tensors.
        stack = _stack(layers)
        if not _capturing(layers[0].weight):
            _refresh_moved(layers, stack)
        measures = _measures(layers, stack)
    factors = measures.new_tensor([layer.excess / layer.bound for layer in layers])
    return (measures * factors).clamp_min(1).reciprocal().unbind()


@torch.no_grad()
def _refresh_moved(layers: list[LipschitzLayer], stack: Tensor | None) -> None:
    """Refresh every v that does not belong to its weight."""
    changes = [layer.change(now) for layer, now in zip(layers, _values(layers, stack), strict=True)]
    # "Not at most" instead of "above": a change from or to NaN counts.
    moved = {
        layer: change
        for layer, change in zip(layers, changes, strict=True)
        if layer.stepped() or not change <= _CHANGED
    }
    if not moved:
        return
    for layer, change in moved.items():
        if layer.seen is not None and not change <= _REPLACED:
            layer.begin_anew()
    refresh(list(moved), *WARM, doubtful=True)
    for layer, now in zip(layers, _values(layers, stack), strict=True):
        if layer in moved:
            layer.remember(now)


def _stack(layers: list[LipschitzLayer]) -> Tensor | None:
    """Weights of layers of one kind, where one product serves all of them."""
    stacks = layers[0].stacks and layers[0].norm.stacks
    return torch.stack([layer.weight for layer in layers]) if stacks else None


def _measures(layers: list[LipschitzLayer], stack: Tensor | None) -> Tensor:
    """`LipschitzLayer.measure` of every layer, ``(layers,)``, with gradient to the weights and to learned orders."""
    if stack is None:
        return torch.stack([layer.measure() for layer in layers])
    v = torch.cat([layer.v for layer in layers])  # a copy: the graph keeps it, and v changes in place
    return layers[0].norm.sigma(layers[0].operators(stack), v)


def _values(layers: list[LipschitzLayer], stack: Tensor | None) -> list[tuple[float, float]]:
    """‖W v‖/‖v‖ and ‖W‖_F of layers of one kind."""
    weights = [without_transforms(layer.weight) for layer in layers]
    v = torch.cat([layer.v for layer in layers])
    if stack is None:
        applied = torch.cat([layer.apply_weight(w, layer.v) for layer, w in zip(layers, weights, strict=True)])
    else:
        applied = layers[0].apply_each(without_transforms(stack), v)
    values = torch.stack([lengths(applied) / lengths(v), torch.stack(torch._foreach_norm(weights))])
    return list(zip(*values.tolist(), strict=True))


def _capturing(weight: Tensor) -> bool:
    """Whether a CUDA graph is being captured, when no value can be read: call `update_lipschitz` before it."""
    return weight.is_cuda and torch.cuda.is_current_stream_capturing()


@torch.no_grad()
def refresh(layers: list[LipschitzLayer], tolerance: float, max_iterations: int, *, doubtful: bool = False) -> None:
    """Power iteration of layers of one kind: from their v where it is a warm start, otherwise a thorough search.

    Args:
        layers: of one kind.
        tolerance, max_iterations: of a warm start.
        doubtful: leave a loaded v unchanged where the iteration does not raise its norm.
    """
    cold = [layer for layer in layers if not layer.warm]
    loaded = [layer for layer in layers if layer.warm and layer.seen is None and doubtful]
    warm = [layer for layer in layers if layer.warm and layer not in loaded]
    for layer in cold:
        layer.start()
    _iterate(cold, *THOROUGH, thorough=True)
    _iterate(warm, tolerance, max_iterations, thorough=False)
    before = [(layer.v.clone(), layer.sigma()) for layer in loaded]
    _iterate(loaded, tolerance, max_iterations, thorough=False)
    for layer, (v, sigma) in zip(loaded, before, strict=True):
        if bool(layer.sigma() <= (1 + tolerance) * sigma):
            layer.accept(v)


def _iterate(layers: list[LipschitzLayer], tolerance: float, max_iterations: int, *, thorough: bool) -> None:
    """Power iteration of layers of one kind, as one stack where their norm takes it."""
    limits = tolerance, max_iterations
    if not layers or not layers[0].norm.stacks:
        for layer in layers:
            layer.accept(layer.norm.search(layer.operator(), layer.v, *limits, thorough=thorough))
        return
    first, v = layers[0], torch.cat([layer.v for layer in layers])
    weights = torch.stack([without_transforms(layer.weight) for layer in layers])
    tops = first.norm.search(first.operators(weights), v, *limits, thorough=thorough)
    for layer, top in zip(layers, tops, strict=True):
        layer.accept(top[None])


@torch.no_grad()
def remember(layers: list[LipschitzLayer]) -> None:
    """Record that the v of layers of one kind belong to their present weights."""
    for layer, values in zip(layers, _values(layers, _stack(layers)), strict=True):
        layer.remember(values)
