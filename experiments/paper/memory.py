"""Figure 3: memory of a training step under each route of the log-determinant's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import ResidualBlock
from contraflow.files import replacing
from contraflow.flow import Flow
from contraflow.lipschitz import update_lipschitz
from contraflow.logdet import PowerSeries
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.peak import Peak, step_peak
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_TERMS = 10
_ROUTES = {
    "series": "backpropagation through the series",
    "neumann": "Neumann gradient",
    "backward_in_forward": "Neumann gradient, backward in forward",
    "dual": "ours: dual pass (default)",
    "kept": "ours: activations kept",
}


@dataclass(frozen=True)
class Case:
    """A network and a batch.

    Args:
        architecture, shape, options: as in a recipe.
        batch: images, a number with a prime factor that no layer's size has.
        device: cpu or cuda.
    """

    architecture: str
    shape: tuple[int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 5
    device: str = "cpu"

    def flow(self) -> tuple[Flow, torch.Tensor]:
        """An untrained flow, its ActNorms and norms set, and a batch of noise."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, *self.shape, device=self.device)
        flow = ARCHITECTURES[self.architecture](self.shape, **self.options).to(self.device)
        update_lipschitz(flow, max_iterations=1)
        flow.log_prob(x)
        return flow, x

    def peaks(self) -> dict[str, Peak]:
        """Of one step under every route; the power iteration is no part of it."""
        flow, x = self.flow()
        found = {}
        for route in _ROUTES:
            for module in flow.modules():
                if isinstance(module, ResidualBlock):
                    module.gradient, module.logdet = route, PowerSeries(_TERMS)
            found[route] = step_peak(flow, x, self.device)
        return found


_SMALL: dict[str, Any] = {"blocks": (4, 4, 4), "hidden": 64, "dense_blocks": 0}
_REDUCED = {
    "MNIST": Case("residual_flow_images", (1, 28, 28), _SMALL),
    "CIFAR10-small": Case("residual_flow_images", (3, 32, 32), _SMALL | {"squeeze_first": True}),
    "CIFAR10-large": Case("residual_flow_images", (3, 32, 32), _SMALL),
}
#: 65 = 5 · 13 images stand for the paper's 64, so that the tensors with a row a sample can be told from the others.
_FULL = {
    "MNIST": Case("residual_flow_mnist", (1, 28, 28), batch=65, device="cuda"),
    "CIFAR10-small": Case("residual_flow_cifar10", (3, 32, 32), {"squeeze_first": True}, 65, "cuda"),
    "CIFAR10-large": Case("residual_flow_cifar10", (3, 32, 32), batch=65, device="cuda"),
}


def run(plan: Plan) -> Result:
    """Peaks of every network under every route, as a table and a picture."""
    cases = _FULL if plan.budget == "full" else _REDUCED
    found = {name: case.peaks() for name, case in cases.items()}
    picture = plan.picture()
    with replacing(picture) as temporary:
        memory_picture(found, temporary)
    rows = [
        (text, *(_cell(peaks[route], peaks["series"]) for peaks in found.values())) for route, text in _ROUTES.items()
    ]
    caption = (
        "MB of the tensors with a row for every sample, at the peak of a step; in brackets all tensors (weights, "
        "gradients and optimiser included); ×: how many times less than the first row, by the first number."
    )
    return Result(
        tables=(Table(("gradient", *found), rows, caption),),
        findings=(_finding(found),),
        pictures=(Picture(picture.name, "Tensors with a row for every sample, at the peak of a training step."),),
        values={name: {route: asdict(one) for route, one in peaks.items()} for name, peaks in found.items()},
    )


def _cell(one: Peak, naive: Peak) -> str:
    saved = naive.activations / one.activations
    return f"{one.activations / 1e6:.1f} ({one.total / 1e6:.1f}), ×{saved:.1f}"


def _finding(found: Mapping[str, Mapping[str, Peak]]) -> str:
    parts = []
    for name, peaks in found.items():
        naive, paper, ours = (peaks[route].activations for route in ("series", "backward_in_forward", "dual"))
        parts.append(f"{name} {naive / paper:.1f} times fewer, {naive / ours:.1f} times with our dual pass")
    return f"The paper's two tricks and the activations held at {_TERMS} terms: {'; '.join(parts)}."


def memory_picture(found: Mapping[str, Mapping[str, Peak]], path: Path) -> None:
    """Bars, a group a network, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(_ROUTES)
    for place, (route, text) in enumerate(_ROUTES.items()):
        heights = [peaks[route].activations / 1e6 for peaks in found.values()]
        axes.bar([group + place * width for group in range(len(found))], heights, width, label=text)
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(found))], labels=list(found))
    axes.set(ylabel="MB at the peak of a step", yscale="log")
    axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=130)


FIGURE_3 = Experiment(
    about="memory of the gradient routes",
    claims=(
        Claim(
            "GB a batch of 64 images with 10 terms, for MNIST, CIFAR10-small (downsampled before any block) and "
            "CIFAR10-large: naive backpropagation needs memory for every term of every block, O(nm); the Neumann "
            "series saves the factor n, and gradients taken already in the forward pass the factor m: O(1) for the "
            "log-determinant",
            "Figure 3 and section 3.2",
            "the caption and the text; the figure's bars are not readable in it",
        ),
    ),
    reduced=Setting(
        "Exact bytes of one training step by torch's profiler, 10 terms, batches of 5 images, 4-4-4 blocks of 64 "
        "channels without fully connected ones, on the processor. Nothing is trained. At growing depth, beside a peer: "
        "docs/benchmarks.md."
    ),
    full=Setting("The paper's networks, 16-16-16 blocks of 512, batches of 65 on a GPU: `--budget full`."),
    run=run,
)
