"""Autoregressive flows, their masked networks from zuko: MADE, MAF, IAF, NAF and neural spline flows.

z_i = τ(x_i; h_i(x_1 … x_{i-1})): the Jacobian is triangular, log|det| = Σ_i log|∂τ/∂x_i|. One direction costs one pass
of the network, the other D passes, one number after another. Images are flattened. ActNorm stands before every
transform, where MAF's authors put batch normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from contraflow.architectures.architecture import Architecture
from contraflow.bijections import ActNorm, Bijection, Chain, Flatten, Inverse, MonotoneTransform, from_transform
from contraflow.distributions import StandardNormal
from contraflow.errors import ConfigurationError
from contraflow.flow import Flow


def made(
    event_shape: Sequence[int],
    *,
    hidden: Sequence[int] = (256, 256),
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A masked autoencoder with Gaussian conditionals: z_i = exp(a_i) x_i + b_i, one transform.

    Germain, Gregor, Murray, Larochelle, MADE, 2015 (arXiv:1502.03509), in the form of Papamakarios et al. 2017. A
    density costs one pass of the network, a sample D.

    Args:
        event_shape: ``(D,)``, or ``(C, H, W)``, which is flattened.
        hidden: widths of the masked network.
        actnorm: ActNorm before the transform.
        preprocessing: as for `Flow`.

    Raises:
        ConfigurationError: zuko is not installed.
    """
    make = _layers(event_shape, 1, hidden)
    return _flow(event_shape, [make(0)], actnorm, preprocessing)


def maf(
    event_shape: Sequence[int],
    *,
    transforms: int = 5,
    hidden: Sequence[int] = (128, 128),
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A masked autoregressive flow: MADEs on top of each other, the order of the numbers turned around in between.

    Papamakarios, Pavlakou, Murray, 2017 (arXiv:1705.07057). A density costs one pass of every network, a sample D.

    Args:
        transforms: number of MADEs.
        event_shape, hidden, actnorm, preprocessing: as for `made`.

    Raises:
        ConfigurationError: zuko is not installed.
    """
    make = _layers(event_shape, transforms, hidden)
    return _flow(event_shape, [make(i) for i in range(transforms)], actnorm, preprocessing)


def iaf(
    event_shape: Sequence[int],
    *,
    transforms: int = 5,
    hidden: Sequence[int] = (128, 128),
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """An inverse autoregressive flow: MAF's transforms the other way round.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 2016 (arXiv:1606.04934). A sample costs one pass of every
    network; the density of given data goes the slow way, D passes, in training too.

    Args:
        transforms, event_shape, hidden, actnorm, preprocessing: as for `maf`.

    Raises:
        ConfigurationError: zuko is not installed.
    """
    make = _layers(event_shape, transforms, hidden)
    return _flow(event_shape, [Inverse(make(i)) for i in range(transforms)], actnorm, preprocessing)


def naf(
    event_shape: Sequence[int],
    *,
    transforms: int = 2,
    hidden: Sequence[int] = (128, 128),
    signal: int = 8,
    monotone: Sequence[int] = (16, 16),
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """A neural autoregressive flow: τ is a network with positive weights, increasing in x_i.

    Huang, Krueger, Lacoste, Courville, 2018 (arXiv:1804.00779). A density costs one pass of every network. A sample
    costs D passes with a bisection in each, down to the precision of the dtype: `MonotoneTransform`. τ is onto the
    line, so no number needs to be clipped on the way.

    Args:
        signal: numbers by which the masked network steers each τ.
        monotone: widths of τ's hidden layers, even numbers.
        transforms, event_shape, hidden, actnorm, preprocessing: as for `maf`.

    Raises:
        ConfigurationError: zuko is not installed.
    """
    features = math.prod(event_shape)

    def univariate() -> dict[str, Any]:
        return {"univariate": MonotoneNetwork(features, signal, monotone), "shapes": [(signal,)]}

    make = _layers(event_shape, transforms, hidden, univariate)
    return _flow(event_shape, [make(i) for i in range(transforms)], actnorm, preprocessing)


def nsf(
    event_shape: Sequence[int],
    *,
    transforms: int = 3,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    actnorm: bool = True,
    preprocessing: Bijection | None = None,
) -> Flow:
    """An autoregressive neural spline flow: τ is a rational-quadratic spline on [-bound, bound], the identity outside.

    Durkan, Bekasov, Murray, Papamakarios, 2019 (arXiv:1906.04032). A density costs one pass of every network, a sample
    D; the splines are inverted in closed form.

    Args:
        bins: pieces of a spline.
        bound: half width of the interval; ActNorm brings the data into it.
        transforms, event_shape, hidden, actnorm, preprocessing: as for `maf`.

    Raises:
        ConfigurationError: zuko is not installed.
    """

    def univariate() -> dict[str, Any]:
        from zuko.transforms import MonotonicRQSTransform

        return {"univariate": partial(MonotonicRQSTransform, bound=bound), "shapes": [(bins,), (bins,), (bins - 1,)]}

    make = _layers(event_shape, transforms, hidden, univariate)
    return _flow(event_shape, [make(i) for i in range(transforms)], actnorm, preprocessing)


class MonotoneNetwork(nn.Module):
    """τ(x_i; signal_i) of every feature i: positive weights, increasing and onto the line.

    Args:
        features: D, one network each.
        signal: inputs of each besides x_i.
        hidden: widths of the hidden layers.
    """

    def __init__(self, features: int, signal: int, hidden: Sequence[int]) -> None:
        from zuko.nn import MonotonicMLP

        super().__init__()
        self.network = MonotonicMLP(1 + signal, 1, hidden_features=hidden, stack=features)

    def forward(self, signal: Tensor) -> MonotoneTransform:
        """The transform for signals ``(batch, D, signal)``."""

        def increasing(x: Tensor) -> Tensor:
            steered = signal.expand(*x.shape, signal.shape[-1])
            return self.network(torch.cat((x[..., None], steered), dim=-1)).squeeze(-1)

        return MonotoneTransform(increasing)


def _layers(
    event_shape: Sequence[int],
    transforms: int,
    hidden: Sequence[int],
    univariate: Callable[[], dict[str, Any]] = dict,
) -> Callable[[int], Bijection]:
    """Number of a transform → the transform, its order of the numbers turned around in every second one.

    zuko computes its masks while it builds, which the meta device cannot: modules are built on the CPU and moved.
    """
    try:
        from zuko.flows import MaskedAutoregressiveTransform
    except ImportError:
        raise ConfigurationError("autoregressive flows need the extra: pip install 'contraflow[zuko]'.") from None
    if transforms < 1:
        raise ConfigurationError(f"transforms={transforms}: there must be at least 1.")
    features = math.prod(event_shape)

    def make(number: int) -> Bijection:
        order = torch.arange(features, device="cpu")
        device = torch.get_default_device()
        with torch.device("cpu"):
            transform = MaskedAutoregressiveTransform(
                features,
                order=order.flip(0) if number % 2 else order,
                hidden_features=hidden,
                activation=nn.ELU,
                **univariate(),
            )
        return from_transform(transform.to(device), (features,))

    return make


def _flow(
    event_shape: Sequence[int], layers: Sequence[Bijection], actnorm: bool, preprocessing: Bijection | None
) -> Flow:
    features = math.prod(event_shape)
    chain: list[Bijection] = [] if len(event_shape) == 1 else [Flatten(event_shape)]
    for layer in layers:
        chain += [ActNorm(features), layer] if actnorm else [layer]
    return Flow(event_shape, Chain(chain), StandardNormal((features,)), preprocessing)


def _named(build: Callable[..., Flow], about: str, learning_rate: float, **small: Any) -> Architecture:
    sizes: dict[tuple[int, ...], dict[str, Any]] = {(3,): {"hidden": (8, 8), **small}}
    sizes[(2, 2, 2)] = sizes[(3,)]
    return Architecture(build, (43,), about, sizes, learning_rate, extra="zuko")


#: Name → architecture.
AUTOREGRESSIVE_FLOWS: dict[str, Architecture] = {
    "made": _named(made, "Germain et al. 2015: masked autoencoder, Gaussian conditionals", 1e-2),
    "maf": _named(maf, "Papamakarios et al. 2017: masked autoregressive flow", 1e-2, transforms=2),
    "iaf": _named(iaf, "Kingma et al. 2016: inverse autoregressive flow, slow densities", 1e-2, transforms=2),
    "naf": _named(naf, "Huang et al. 2018: neural autoregressive flow", 1e-2, transforms=2, monotone=(4, 4)),
    "nsf": _named(nsf, "Durkan et al. 2019: autoregressive neural spline flow", 1e-2, transforms=2),
}
