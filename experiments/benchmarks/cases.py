"""The flows that are timed: ours, the peer's, and their matrix products alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import normflows as nf
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from contraflow.architectures import residual_flow, residual_flow_images
from contraflow.bijections import ResidualBlock
from contraflow.flow import Flow
from contraflow.lipschitz import LipschitzLayer, update_lipschitz
from contraflow.logdet import LogDetEstimator, RussianRoulette
from experiments.benchmarks.peer import peer_dense, peer_images
from experiments.benchmarks.timing import Step

#: Expected number of terms of the series under the paper's law; the peer computes exactly this number.
TERMS = 4

#: Name of the Lipschitz update in a profile, both ours and the peer's.
UPDATE = "lipschitz update"


@dataclass(frozen=True)
class Case:
    """An architecture and a batch size.

    Args:
        name: for tables.
        event_shape: ``(D,)`` for dense flows, ``(C, H, W)`` for images.
        blocks: number of residual blocks, or that of each level.
        hidden: widths of the hidden layers; for images the number of channels.
        batch: number of rows.
    """

    name: str
    event_shape: tuple[int, ...]
    blocks: int | tuple[int, ...]
    hidden: tuple[int, ...] | int
    batch: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.blocks if isinstance(self.blocks, int) else sum(self.blocks)

    def data(self, device: str = "cpu") -> Tensor:
        """Random rows; the time of a step does not depend on them."""
        return torch.randn(self.batch, *self.event_shape, generator=torch.Generator().manual_seed(0)).to(device)

    def ours(self, logdet: LogDetEstimator, gradient: str = "dual") -> Flow:
        """Our flow."""
        if isinstance(self.blocks, int):
            assert not isinstance(self.hidden, int)
            return residual_flow(
                self.event_shape,
                blocks=self.blocks,
                hidden=self.hidden,
                activation="lipswish",
                preactivation=True,
                logdet=logdet,
                gradient=gradient,
            )
        assert isinstance(self.hidden, int)
        return residual_flow_images(
            self.event_shape, blocks=self.blocks, hidden=self.hidden, dense_blocks=0, logdet=logdet, gradient=gradient
        )

    def peer(self, scheme: str, terms: int | None = TERMS) -> nn.Module:
        """The same flow in normflows."""
        if isinstance(self.blocks, int):
            assert not isinstance(self.hidden, int)
            return peer_dense(self.event_shape[0], self.blocks, self.hidden, scheme, terms)
        assert isinstance(self.hidden, int)
        return peer_images(self.event_shape, self.blocks, self.hidden, scheme, terms)


#: Four flows for a CPU, with the paper's sizes where possible, and the two flows of the paper, for a GPU.
CASES = {
    "2d": Case("2-D, 100 blocks of 4×128", (2,), 100, (128,) * 4, 500),
    "table": Case("table, 43-D, 10 blocks of 3×128", (43,), 10, (128,) * 3, 1000),
    "image-128": Case("image 3×32×32, 4-4-4 of 128", (3, 32, 32), (4, 4, 4), 128, 16),
    "image-512": Case("image 1×28×28, 2-2-2 of 512", (1, 28, 28), (2, 2, 2), 512, 16),
    "mnist": Case("MNIST as in the paper, 16-16-16 of 512", (1, 28, 28), (16, 16, 16), 512, 64),
    "cifar10": Case("CIFAR-10 as in the paper, 16-16-16 of 512", (3, 32, 32), (16, 16, 16), 512, 64),
}


def our_step(flow: Flow, x: Tensor, *, compiled: bool = False) -> Step:
    """A training step as in `contraflow.training.train`: Lipschitz update, forward, backward, optimiser."""
    log_prob = torch.compile(flow.log_prob) if compiled else flow.log_prob
    update_lipschitz(flow)
    flow.train()
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(x.device).manual_seed(0)

    def step() -> Tensor:
        with record_function(UPDATE):
            update_lipschitz(flow)
        loss = -log_prob(x, generator=generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return step


def peer_step(flow: nn.Module, x: Tensor) -> Step:
    """A training step of normflows with the same fused optimiser."""
    flow.train()
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        loss = -flow.log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with record_function(UPDATE):
            nf.utils.update_lipschitz(flow, None if x.ndim == 4 else 5)
        return loss

    return step


def bare_products(flow: Flow, x: Tensor) -> Step:
    """The products with weights in one evaluation of all g, without biases, activations and other operations."""
    work: list[tuple[LipschitzLayer, Tensor, Tensor]] = []
    handles = [
        block.register_forward_pre_hook(lambda block, given: work.extend(_products(block, given[0])))
        for block in flow.modules()
        if isinstance(block, ResidualBlock)
    ]
    with torch.no_grad():
        flow(x)
    for handle in handles:
        handle.remove()

    @torch.no_grad()
    def products() -> None:
        for layer, weight, inputs in work:
            layer.apply_weight(weight, inputs)

    return products


def _products(block: ResidualBlock, x: Tensor) -> list[tuple[LipschitzLayer, Tensor, Tensor]]:
    products = []
    h = block.g.prepare(x)
    for layer in block.g.layers:
        weight = layer.normalised().detach()
        products.append((layer, weight, h))
        h = torch.randn_like(layer.apply_weight(weight, h))
    return products


def products_a_step(logdet: LogDetEstimator) -> float:
    """Cost of a step in evaluations of g: forward 1, the series n, dual pass 2, its backward pass 4."""
    assert isinstance(logdet, RussianRoulette)
    survival: Sequence[float] = [logdet.law.survival(k) for k in range(1, 200)]
    return 7 + logdet.exact_terms + math.fsum(survival)
