"""Autoregressive flows with masked networks of zuko: MADE, MAF, IAF, NAF and neural spline flows.

z_i = τ(x_i; h_i(x_1 … x_{i-1})), so the Jacobian is triangular and log|det| = Σ_i log|∂τ/∂x_i|. One direction takes one
pass of the network; the other takes D sequential passes, one for each dimension. Images are flattened. An ActNorm
precedes every transform, in place of the batch normalisation of MAF's authors.
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
    """A masked autoencoder with Gaussian conditionals, z_i = exp(a_i) x_i + b_i, as a single transform.

    Germain, Gregor, Murray, Larochelle, MADE, 2015 (arXiv:1502.03509), in the form of Papamakarios et al. 2017. A
    density takes one pass of the network, a sample takes D passes.

    Args:
        event_shape: ``(D,)``, or ``(C, H, W)``, which is flattened.
        hidden: widths of the hidden layers of the masked network.
        actnorm: whether an ActNorm precedes the transform.
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
    """A masked autoregressive flow: several MADEs, each of which reverses the order of dimensions of the previous one.

    Papamakarios, Pavlakou, Murray, 2017 (arXiv:1705.07057). A density takes one pass of every network, a sample D.

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
    """An inverse autoregressive flow: the inverses of MAF's transforms.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 2016 (arXiv:1606.04934). A sample takes one pass of every
    network; the density of given data takes D passes, also in training.

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
    """A neural autoregressive flow: τ is a network with positive weights, so it is increasing in x_i.

    Huang, Krueger, Lacoste, Courville, 2018 (arXiv:1804.00779). A density takes one pass of every network. A sample
    takes D passes with a bisection in each, to the precision of the dtype: `MonotoneTransform`. The range of τ is the
    whole real line, so values need not be clipped before the inverse.

    Args:
        signal: number of outputs of the masked network that condition each τ.
        monotone: widths of τ's hidden layers, which must be even.
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

    Durkan, Bekasov, Murray, Papamakarios, 2019 (arXiv:1906.04032). A density takes one pass of every network, a sample
    D passes; the splines have inverses in closed form.

    Args:
        bins: number of pieces of each spline.
        bound: half the width of the interval; ActNorm scales the data into it.
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
    """τ(x_i; signal_i) for every feature i: a network with positive weights that increases from -∞ to ∞ in x_i.

    Args:
        features: D, the number of networks.
        signal: number of inputs of each network besides x_i.
        hidden: widths of the hidden layers.
    """

    def __init__(self, features: int, signal: int, hidden: Sequence[int]) -> None:
        from zuko.nn import MonotonicMLP

        super().__init__()
        self.network = MonotonicMLP(1 + signal, 1, hidden_features=hidden, stack=features)

    def forward(self, signal: Tensor) -> MonotoneTransform:
        """The transform for signals ``(batch, D, signal)``."""

        def increasing(x: Tensor) -> Tensor:
            signals = signal.expand(*x.shape, signal.shape[-1])
            return self.network(torch.cat((x[..., None], signals), dim=-1)).squeeze(-1)

        return MonotoneTransform(increasing)


def _layers(
    event_shape: Sequence[int],
    transforms: int,
    hidden: Sequence[int],
    univariate: Callable[[], dict[str, Any]] = dict,
) -> Callable[[int], Bijection]:
    """A function of the index of a transform that builds it; every second transform reverses the order of dimensions.

    zuko computes masks in its constructors, which fails on the meta device, so modules are built on the CPU and moved.
    """
    try:
        from zuko.flows import MaskedAutoregressiveTransform
    except ImportError:
        raise ConfigurationError("autoregressive flows need the extra: pip install 'contraflow[zuko]'.") from None
    if transforms < 1:
        raise ConfigurationError(f"transforms={transforms}: there must be at least 1.")
    features = math.prod(event_shape)

    def make(index: int) -> Bijection:
        order = torch.arange(features, device="cpu")
        device = torch.get_default_device()
        with torch.device("cpu"):
            transform = MaskedAutoregressiveTransform(
                features,
                order=order.flip(0) if index % 2 else order,
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
