"""Activations and initialisations of residual flows on the checkerboard at equal processor time.

    python -m experiments.benchmarks.activations [--seconds 90] [--seeds 0] [--cases 0 1 2]

Prints a table: steps, held-out nats, and how much of their Lipschitz bounds the trained blocks use.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from contraflow import Chain, Exact, Flow, ResidualBlock
from contraflow.architectures import residual_flow
from contraflow.data import load_dataset
from contraflow.lipschitz import update_lipschitz
from contraflow.numerics import batch_jacobian
from experiments.benchmarks.learners import Learner
from experiments.benchmarks.quality import ROWS, train
from experiments.benchmarks.timing import hardware

_BLOCKS, _HIDDEN, _RATE, _BATCH = 16, (64, 64, 64), 2e-2, 500
#: Held-out rows at which Jacobians are taken.
_POINTS = 1000


@dataclass(frozen=True)
class Case:
    """A kind of g.

    Args:
        activation, initialisation, preactivation: as for `residual_flow`.
    """

    activation: str
    initialisation: str
    preactivation: bool = True

    def flow(self) -> Flow:
        """A new flow."""
        return residual_flow(
            (2,),
            blocks=_BLOCKS,
            hidden=_HIDDEN,
            activation=self.activation,
            initialisation=self.initialisation,
            preactivation=self.preactivation,
            logdet=Exact(),
            gradient="kept",
        )


CASES = (
    Case("lipswish", "default"),
    Case("lipswish", "orthogonal"),
    Case("clipswish", "orthogonal"),
    Case("cpila", "orthogonal"),
    Case("concatenated_sine", "default", preactivation=False),
    Case("concatenated_sine", "orthogonal"),
    Case("concatenated_sine", "orthogonal", preactivation=False),
)


def main() -> None:
    """Train every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="processor time of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the weights")
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="rows of the table, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{_BLOCKS} blocks of {_HIDDEN}, {arguments.seconds:g} s of one thread a run, {hardware()}\n")
    print("| activation | initialisation | g begins with | seed | steps | nats | largest ‖J‖ | certified L |")
    print("|---|---|---|---|---|---|---|---|")
    for case in (CASES[index] for index in arguments.cases):
        for seed in arguments.seeds:
            print(row(case, seed, arguments.seconds), flush=True)


def row(case: Case, seed: int, seconds: float) -> str:
    """One run as a row of the table; the last two columns are means over the blocks."""
    data = load_dataset("checkerboard")
    torch.manual_seed(seed)
    flow = case.flow()
    learner = Learner(flow, flow.log_prob, flow.log_prob, lambda: update_lipschitz(flow))
    curve = train(lambda: learner, data.train, _BATCH, _RATE, seconds, data.test[:ROWS], (1,))
    used = statistics.mean(steepest(flow, data.test[:_POINTS]))
    bounds = statistics.mean(block.bound for block in flow.certify().blocks)
    start = "activation" if case.preactivation else "weight"
    return (
        f"| {case.activation} | {case.initialisation} | {start} | {seed} | {curve.steps[-1]} | {curve.scores[-1]:.3f} "
        f"| {used:.3f} | {bounds:.3f} |"
    )


def steepest(flow: Flow, x: Tensor) -> list[float]:
    """The largest ‖J_g‖₂ of every block at the points that x become there: a Lipschitz constant from below."""
    assert isinstance(flow.bijection, Chain)
    norms = []
    for bijection in flow.bijection.bijections:
        if isinstance(bijection, ResidualBlock):
            jacobians = batch_jacobian(bijection.g, x).detach()
            norms.append(torch.linalg.matrix_norm(jacobians, 2).max().item())
        with torch.no_grad():
            x = bijection.forward(x)
    return norms


if __name__ == "__main__":
    main()
