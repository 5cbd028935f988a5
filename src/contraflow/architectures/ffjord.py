"""FFJORD, a continuous flow. Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, ICLR 2019 (arXiv:1810.01367)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from contraflow.architectures.architecture import Architecture, image_shape, vector_features
from contraflow.bijections import Bijection, Chain, ContinuousFlow, MultiScale, Squeeze
from contraflow.distributions import StandardNormal
from contraflow.errors import ShapeError, unknown_name
from contraflow.flow import Flow
from contraflow.logdet import Divergence, ExactDivergence, Hutchinson
from contraflow.logdet.probes import Gaussian
from contraflow.nets import VectorField, conv_field, dense_field, with_zero_output
from contraflow.numerics import METHODS, FixedStepSolver, OdeSolver

DIVERGENCES: dict[str, Divergence] = {
    "exact": ExactDivergence(),
    "gaussian": Hutchinson(Gaussian()),
    "rademacher": Hutchinson(),
}


def ffjord(
    event_shape: Sequence[int],
    *,
    steps: int = 1,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "softplus",
    layer: str = "concatsquash",
    levels: int = 2,
    divergence: str = "rademacher",
    solver: str = "dopri5",
    tolerance: float = 1e-5,
    max_evaluations: int = 2000,
    training_solver: str | None = None,
    training_steps: int = 4,
    training_tolerance: float = 1e-4,
    adjoint: bool = True,
    kinetic_weight: float = 0.0,
    jacobian_weight: float = 0.0,
    start_at_identity: bool = False,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A continuous flow of vectors or images.

    For images, the flow has levels as in Real NVP. Each level is a sequence of `steps` flows, a squeeze and another
    `steps` flows, after which half of the channels are factored out; the last level is a sequence of `steps` flows.

    Args:
        event_shape: ``(D,)`` or ``(C, H, W)``.
        steps: number of continuous flows in a sequence, each with its own vector field over t in [0, 1].
        hidden: widths of the fields' hidden layers; for images, numbers of channels.
        activation: name in `contraflow.nets.FIELD_ACTIVATIONS`.
        layer: how time enters the fields' layers, a name in `contraflow.nets.FIELD_LAYERS`.
        levels: number of levels for images.
        divergence: name in `DIVERGENCES`.
        solver, tolerance, max_evaluations: as for `contraflow.numerics.OdeSolver`.
        training_solver: method for training: of `training_steps` steps of one size (`FIXED_METHODS` of
            `contraflow.numerics`, best with adjoint=False), or adaptive to `training_tolerance` (`METHODS`). Training
            solves as evaluation does when not given.
        training_steps, training_tolerance: of that method.
        adjoint, kinetic_weight, jacobian_weight: as for `contraflow.bijections.ContinuousFlow`.
        start_at_identity: whether the last layer of every field is zero at first, so that the flow starts as x ↦ x.
        preprocessing: as for `Flow`.

    Raises:
        ShapeError: the image cannot be halved between the levels.
        ConfigurationError: a name is unknown.

    >>> ffjord((1, 8, 8), hidden=(8,)).base.event_shape
    (64,)
    """
    if divergence not in DIVERGENCES:
        raise unknown_name("divergence", divergence, DIVERGENCES)

    training: OdeSolver | FixedStepSolver | None = None
    if training_solver in METHODS:
        training = OdeSolver(training_solver, training_tolerance, max_evaluations)
    elif training_solver is not None:
        training = FixedStepSolver(training_solver, training_steps)

    def flows(field: Callable[[], VectorField]) -> list[Bijection]:
        return [
            ContinuousFlow(
                with_zero_output(field()) if start_at_identity else field(),
                DIVERGENCES[divergence],
                OdeSolver(solver, tolerance, max_evaluations),
                training_solver=training,
                adjoint=adjoint,
                kinetic_weight=kinetic_weight,
                jacobian_weight=jacobian_weight,
            )
            for _ in range(steps)
        ]

    if len(event_shape) == 1:
        features = vector_features(event_shape)
        body: Bijection = Chain(flows(lambda: dense_field(features, hidden, activation, layer)))
        return Flow(event_shape, body, preprocessing=preprocessing)
    shape = image_shape(event_shape)
    body = _levels(shape, levels, lambda channels: flows(lambda: conv_field(channels, hidden, activation, layer)))
    return Flow(event_shape, body, StandardNormal((math.prod(event_shape),)), preprocessing)


def _levels(shape: tuple[int, int, int], levels: int, flows: Callable[[int], list[Bijection]]) -> MultiScale:
    """Levels with sequences of flows built by `flows(channels)`; half of the channels are factored out after each."""
    channels, height, width = shape
    if levels < 1 or height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ShapeError(
            f"levels={levels}: images of {height}×{width} cannot be halved {levels - 1} times; use fewer levels, but "
            "at least one."
        )
    chains: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for _ in range(levels - 1):
        chains.append(Chain([*flows(channels), Squeeze(), *flows(4 * channels)]))
        height, width = height // 2, width // 2
        shapes.append((4 * channels, height, width))
        channels *= 2
    chains.append(Chain(flows(channels)))
    return MultiScale(chains, [*shapes, (channels, height, width)])


_EXACT = {"solver": "dopri8", "tolerance": 1e-11, "adjoint": False}
#: Only for `ffjord`: tests take seconds at this tolerance, and the other architectures call the same function.
_SMALL: dict[tuple[int, ...], dict[str, Any]] = {
    (2,): {"hidden": (4,), **_EXACT},
    (1, 2, 2): {"hidden": (2,), **_EXACT},
}
_PAPER = "Grathwohl et al. 2019"
_architecture = partial(Architecture, learning_rate=1e-3)


def _table(features: int, layers: int, multiplier: int, steps: int, activation: str, name: str) -> Architecture:
    """A row of the paper's Table 4; the hidden width is a multiple of D."""
    hidden = (features * multiplier,) * layers
    build = partial(ffjord, steps=steps, hidden=hidden, activation=activation, divergence="gaussian", tolerance=1e-6)
    return _architecture(build, (features,), f"{_PAPER}: {name}")


_images = partial(ffjord, steps=2, layer="concat")

#: Name → architecture, with the learning rate of the paper. Tables: the paper's Table 4, with the noise and the
#: relative tolerance of the authors' code; the absolute tolerance equals the relative one here and is 1e-8 there.
#: Images: the multi-scale flows of Appendix B.1, which reach 0.99 and 3.40 bits/dim in the paper. 2-D: the defaults of
#: the authors' code. Time runs over [0, 1] here, while that code learns the end time. In the paper's text, time is
#: concatenated to the input of every layer; in the code, this holds for images, and the layers for vectors are gated by
#: time, as here. `rnode` has the size of `ffjord`. Its weights are those of its authors' commands for MNIST and
#: CIFAR-10, whose flows are FFJORD's with a last layer that is zero at initialisation.
FFJORDS: dict[str, Architecture] = {
    "ffjord": _architecture(ffjord, (1, 8, 8), f"{_PAPER}: continuous flow, tables and images on a CPU", _SMALL),
    "ffjord_small": _architecture(
        partial(ffjord, hidden=(16, 16), tolerance=1e-3), (1, 28, 28), f"{_PAPER}: sized down for MNIST on a CPU"
    ),
    "ffjord_2d": _architecture(
        partial(ffjord, activation="tanh", divergence="exact"), (2,), f"{_PAPER}: 2-D densities"
    ),
    "ffjord_power": _table(6, 3, 10, 5, "tanh", "POWER"),
    "ffjord_gas": _table(8, 3, 20, 5, "tanh", "GAS"),
    "ffjord_hepmass": _table(21, 2, 10, 10, "softplus", "HEPMASS"),
    "ffjord_miniboone": _table(43, 2, 20, 1, "softplus", "MINIBOONE"),
    "ffjord_bsds300": _table(63, 3, 20, 2, "softplus", "BSDS300"),
    "ffjord_mnist": _architecture(partial(_images, levels=3), (1, 28, 28), f"{_PAPER}: MNIST"),
    "ffjord_cifar10": _architecture(partial(_images, levels=4), (3, 32, 32), f"{_PAPER}: CIFAR-10"),
    "rnode": _architecture(
        partial(ffjord, kinetic_weight=0.01, jacobian_weight=0.01),
        (1, 8, 8),
        "Finlay et al. 2020: FFJORD with kinetic and Jacobian penalties",
    ),
}
