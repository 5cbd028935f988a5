"""The flows whose quality is compared, with the functions that a training loop needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import normflows as nf
import torch
import zuko
from torch import Generator, Tensor, nn

from contraflow.architectures import residual_flow
from contraflow.lipschitz import update_lipschitz
from contraflow.logdet import TRAINING, Exact, LogDetEstimator
from contraflow.numerics.jacobian import batch_jacobian
from experiments.benchmarks.peer import peer_dense

#: Dimensions → number of blocks and widths of g, both for our flow and the peer's.
RESIDUAL = {2: (16, (64,) * 4), 6: (10, (128,) * 3)}


@dataclass(frozen=True)
class Learner:
    """A flow in training.

    Args:
        module: its parameters.
        log_prob: the training objective, ``(batch,)`` in nats: exact, or an unbiased estimate.
        exact: log p(x) for scores, ``(batch,)`` in nats.
        update: called before each step.
    """

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    update: Callable[[], object] = lambda: None


#: Setting → function that makes an untrained flow.
Settings = Mapping[str, Callable[[], Learner]]


def learners(features: int) -> dict[str, Settings]:
    """Model → its two settings, of which short runs select one."""
    second = "exact (2-D)" if features == 2 else "neumann + backward in forward"
    return {
        "contraflow": {
            "roulette, kept": lambda: ours(features, TRAINING),
            "exact, kept": lambda: ours(features, Exact()),
        },
        "normflows": {scheme: lambda scheme=scheme: peer(features, scheme) for scheme in ("neumann", second)},
        "zuko NSF": {f"{n} of 2×128": lambda n=n: autoregressive(zuko.flows.NSF, features, n) for n in (3, 5)},
        "zuko MAF": {f"{n} of 2×128": lambda n=n: autoregressive(zuko.flows.MAF, features, n) for n in (5, 10)},
    }


def ours(features: int, logdet: LogDetEstimator) -> Learner:
    """Our residual flow, with the activation that it has by default."""
    flow = residual_flow((features,), hidden=(64, 64, 64), logdet=logdet)
    generator = Generator().manual_seed(0)
    return Learner(
        flow,
        lambda x: flow.log_prob(x, generator=generator),
        lambda x: flow.with_logdet(Exact()).log_prob(x),
        lambda: update_lipschitz(flow),
    )


def peer(features: int, scheme: str) -> Learner:
    """A residual flow with LipSwish in normflows; its series, if there is one, has 2 exact terms + Geometric(0.5)."""
    blocks, hidden = RESIDUAL[features]
    flow = peer_dense(features, blocks, hidden, scheme, None)
    return Learner(flow, flow.log_prob, lambda x: exact_log_prob(flow, x), lambda: nf.utils.update_lipschitz(flow, 5))


def exact_log_prob(flow: nf.NormalizingFlow, x: Tensor) -> Tensor:
    """log p(x) of a residual flow of normflows by dense Jacobians; its own are for two dimensions only."""
    total = torch.zeros(len(x))
    for layer in reversed(flow.flows):
        if isinstance(layer, nf.flows.Residual):
            g = layer.iresblock.nnet
            jacobian = batch_jacobian(g, x).detach()
            x = x + g(x)
            total = total + torch.linalg.slogdet(torch.eye(x.shape[1]) + jacobian).logabsdet
        else:
            x, logdet = layer.inverse(x)
            total = total + logdet
    return flow.q0.log_prob(x) + total


def autoregressive(kind: type[zuko.flows.Flow], features: int, transforms: int) -> Learner:
    """An autoregressive flow of zuko with two hidden layers of 128 in each transform."""
    flow = kind(features, transforms=transforms, hidden_features=(128, 128))

    def log_prob(x: Tensor) -> Tensor:
        return flow().log_prob(x)

    return Learner(flow, log_prob, log_prob)
