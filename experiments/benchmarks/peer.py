"""The same residual flows in normflows, whose residual block is a port of the reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import normflows as nf
import torch
from torch import Tensor, nn

from contraflow.bijections import Bijection, Chain, ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzNetwork

#: Method of normflows for the gradient of the log-determinant → arguments of its residual block.
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
        block.iresblock.neumann_grad = neumann  # its constructor sets this together with the other option
    return block


def peer_dense(features: int, blocks: int, hidden: Sequence[int], scheme: str, terms: int | None) -> nn.Module:
    """The peer of `residual_flow`, with 5 power iterations for each update, as in the reference's 2-D script."""
    flows: list[nn.Module] = [nf.flows.ActNorm(features)]
    for _ in range(blocks):
        net = nf.nets.LipschitzMLP([features, *hidden, features], lipschitz_const=0.98, max_lipschitz_iter=5)
        flows += [peer_block(net, scheme, terms), nf.flows.ActNorm(features)]
    base = nf.distributions.DiagGaussian(features, trainable=False)
    return nf.NormalizingFlow(base, flows[::-1])


def peer_images(
    event_shape: Sequence[int], blocks: Sequence[int], hidden: int, scheme: str, terms: int | None
) -> nn.Module:
    """The peer of `residual_flow_images` without dense blocks; power iterations to 1e-3, as in the reference."""
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


def peer_copy(flow: Flow) -> nn.Module:
    """A trained flow of ours in normflows: its residual blocks with our normalised weights."""
    flows = [_copied(one) for one in _maps(flow.bijection)]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(flow.base.event_shape, trainable=False), flows[::-1]).eval()


def set_tolerance(peer: nn.Module, step: float) -> None:
    """Stop the peer's inverses at |x_k - x_{k-1}| < `step` for all elements; by default the peer compares the squared
    step with 1e-5 (1 + |y|)."""
    for module in peer.modules():
        if isinstance(module, nf.flows.residual.iResBlock):
            solve = type(module)._inverse_fixed_point.__get__(module)
            module._inverse_fixed_point = partial(solve, atol=step**2, rtol=0.0)


def _maps(bijection: Bijection) -> list[Bijection]:
    if not isinstance(bijection, Chain):
        return [bijection]
    return [layer for part in bijection.bijections for layer in _maps(part)]


def _copied(bijection: Bijection) -> nn.Module:
    if not isinstance(bijection, ResidualBlock):
        return _Ours(bijection)
    g = bijection.g
    assert isinstance(g, LipschitzNetwork)
    weights = [layer.normalised().detach() for layer in g.stack()]
    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    if weights[0].ndim == 4:
        kernels = [weight.shape[-1] for weight in weights]
        net = nf.nets.LipschitzCNN(widths, kernels, lipschitz_const=1e9, max_lipschitz_iter=5)
        net(torch.zeros(1, widths[0], *g.stack()[0].size))  # its convolutions read their size from the first input
    else:
        net = nf.nets.LipschitzMLP(widths, lipschitz_const=1e9, max_lipschitz_iter=5)
    swishes, layers = net.net[::2], net.net[1::2]
    for index, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        before = g.composition().activations[index]
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(g.stack()[index].bias)
            if before is not None:
                swishes[index].beta.fill_(before.raw_beta.item())
    if not g.preactivation:
        net.net = net.net[1:]
    return peer_block(net, "neumann", None)


class _Ours(nf.flows.Flow):
    """Our bijection as a flow of normflows, whose forward direction is our inverse."""

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse_and_logdet(z)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.forward_and_logdet(z)
