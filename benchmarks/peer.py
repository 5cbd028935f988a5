"""The same residual flows built from normflows, whose residual block is the reference implementation's port."""

from __future__ import annotations

from collections.abc import Sequence

import normflows as nf
from torch import nn

#: How normflows can take the gradient of the log-determinant: names → arguments of its residual block.
SCHEMES: dict[str, dict[str, object]] = {
    "series": {"reduce_memory": False, "neumann_grad": False},
    "neumann": {"reduce_memory": False, "neumann_grad": True},
    "neumann + backward in forward": {"reduce_memory": True},
    "exact (2-D)": {"reduce_memory": False, "brute_force": True},
}


def peer_block(net: nn.Module, scheme: str, terms: int | None) -> nf.flows.Residual:
    """A residual block; `terms` fixes the length of the series, ``None`` draws it (2 exact + Geometric(0.5))."""
    settings = dict(SCHEMES[scheme])
    neumann = settings.pop("neumann_grad", None)
    block = nf.flows.Residual(net, reverse=True, n_power_series=terms, **settings)
    if neumann is not None:
        block.iresblock.neumann_grad = neumann  # its constructor ties this to the other memory option
    return block


def peer_dense(features: int, blocks: int, hidden: Sequence[int], scheme: str, terms: int | None) -> nn.Module:
    """The peer of `residual_flow`: 5 power iterations an update, as the reference's toy script."""
    flows: list[nn.Module] = [nf.flows.ActNorm(features)]
    for _ in range(blocks):
        net = nf.nets.LipschitzMLP([features, *hidden, features], lipschitz_const=0.98, max_lipschitz_iter=5)
        flows += [peer_block(net, scheme, terms), nf.flows.ActNorm(features)]
    base = nf.distributions.DiagGaussian(features, trainable=False)
    return nf.NormalizingFlow(base, flows[::-1])


def peer_images(
    event_shape: Sequence[int], blocks: Sequence[int], hidden: int, scheme: str, terms: int | None
) -> nn.Module:
    """The peer of `residual_flow_images` without dense blocks: power iterations to 1e-3, as the reference's script."""
    channels, height, width = event_shape
    flows: list[nn.Module] = [nf.flows.ActNorm((channels, 1, 1))]
    for level, count in enumerate(blocks):
        if level:
            flows.append(nf.flows.Squeeze())
            channels, height, width = channels * 4, height // 2, width // 2
        for block in range(count):
            net = nf.nets.LipschitzCNN(
                [channels, hidden, hidden, channels],
                [3, 1, 3],
                lipschitz_const=0.98,
                max_lipschitz_iter=None,
                lipschitz_tolerance=1e-3,
            )
            if level == 0 and block == 0:
                net.net = net.net[1:]  # no activation before the first layer of the flow
            flows += [peer_block(net, scheme, terms), nf.flows.ActNorm((channels, 1, 1))]
    base = nf.distributions.DiagGaussian((channels, height, width), trainable=False)
    return nf.NormalizingFlow(base, flows[::-1])
