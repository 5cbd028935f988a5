"""Figure 3: memory of a training step with each method of computing the log-determinant's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import ResidualBlock
from contraflow.evaluation.figures import logarithmic, png_figure
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
    """A network and a batch size.

    Args:
        architecture, shape, options: as in a recipe.
        batch: number of images, with a prime factor that is in no size of a layer.
        device: cpu or cuda.
    """

    architecture: str
    shape: tuple[int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 5
    device: str = "cpu"

    def flow(self) -> tuple[Flow, torch.Tensor]:
        """An untrained flow, with ActNorms and norms initialised, and a batch of noise."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, *self.shape, device=self.device)
        flow = ARCHITECTURES[self.architecture](self.shape, **self.options).to(self.device)
        update_lipschitz(flow, max_iterations=1)
        flow.log_prob(x)
        return flow, x

    def peaks(self) -> dict[str, Peak]:
        """Peak memory of one training step with each method; the power iteration is not included."""
        flow, x = self.flow()
        peaks = {}
        for route in _ROUTES:
            for module in flow.modules():
                if isinstance(module, ResidualBlock):
                    module.gradient, module.logdet = route, PowerSeries(_TERMS)
            peaks[route] = step_peak(flow, x, self.device)
        return peaks


_SMALL: dict[str, Any] = {"blocks": (4, 4, 4), "hidden": 64, "dense_blocks": 0}
_REDUCED = {
    "MNIST": Case("residual_flow_images", (1, 28, 28), _SMALL),
    "CIFAR10-small": Case("residual_flow_images", (3, 32, 32), _SMALL | {"squeeze_first": True}),
    "CIFAR10-large": Case("residual_flow_images", (3, 32, 32), _SMALL),
}
#: 65 = 5 · 13 images in place of the paper's 64, so that tensors with one row for each sample can be identified.
_FULL = {
    "MNIST": Case("residual_flow_mnist", (1, 28, 28), batch=65, device="cuda"),
    "CIFAR10-small": Case("residual_flow_cifar10", (3, 32, 32), {"squeeze_first": True}, 65, "cuda"),
    "CIFAR10-large": Case("residual_flow_cifar10", (3, 32, 32), batch=65, device="cuda"),
}


def run(plan: Plan) -> Result:
    """Peak memory of all networks with all methods, as a table and a picture."""
    cases = _FULL if plan.full else _REDUCED
    peaks_of = {name: case.peaks() for name, case in cases.items()}
    picture = plan.picture()
    memory_picture(peaks_of, picture)
    rows = [
        (text, *(_cell(peaks[route], peaks["series"]) for peaks in peaks_of.values()))
        for route, text in _ROUTES.items()
    ]
    caption = (
        "MB of the tensors with one row for each sample, at the peak of a step; in brackets all tensors, including "
        "weights, gradients and optimiser state. ×: ratio of the first row to this row, by the first number."
    )
    return Result(
        tables=(Table(("gradient", *peaks_of), rows, caption),),
        findings=(_finding(peaks_of),),
        pictures=(Picture(picture.name, "Tensors with one row for each sample, at the peak of a training step."),),
        values={name: {route: asdict(peak) for route, peak in peaks.items()} for name, peaks in peaks_of.items()},
    )


def _cell(peak: Peak, naive: Peak) -> str:
    return f"{peak.activations / 1e6:.1f} ({peak.total / 1e6:.1f}), ×{naive.activations / peak.activations:.1f}"


def _finding(peaks_of: Mapping[str, Mapping[str, Peak]]) -> str:
    parts = []
    for name, peaks in peaks_of.items():
        naive, paper, ours = (peaks[route].activations for route in ("series", "backward_in_forward", "dual"))
        parts.append(f"{name} {naive / paper:.1f} times and {naive / ours:.1f} times")
    return (
        f"Activations at {_TERMS} terms are reduced by the paper's two methods together, and by our dual pass: "
        f"{'; '.join(parts)}."
    )


def memory_picture(peaks_of: Mapping[str, Mapping[str, Peak]], path: Path) -> None:
    """Bars on a logarithmic axis, one group for each network."""
    with png_figure(path, 7, 3.6, dpi=130) as figure:
        axes = figure.subplots()
        width = 0.8 / len(_ROUTES)
        for place, (route, text) in enumerate(_ROUTES.items()):
            heights = [peaks[route].activations / 1e6 for peaks in peaks_of.values()]
            axes.bar([group + place * width for group in range(len(peaks_of))], heights, width, label=text)
        axes.set_xticks([group + 0.4 - width / 2 for group in range(len(peaks_of))], labels=list(peaks_of))
        axes.set(ylabel="MB at the peak of a step")
        logarithmic(axes, "y")
        axes.legend()


FIGURE_3 = Experiment(
    about="memory of the gradient of the log-determinant",
    claims=(
        Claim(
            "Memory of a batch of 64 images with 10 terms, for MNIST, CIFAR10-small (with immediate downsampling) "
            "and CIFAR10-large: backpropagation through the series needs memory for n terms of m blocks; the Neumann "
            "gradient saves the factor n, and gradients in the forward pass the factor m. The bars of the figure are "
            "not in the text, so there is no published number here",
            "Figure 3 and section 3.2",
        ),
    ),
    reduced=Setting(
        "Exact bytes of one training step, by torch's profiler, on a CPU: 10 terms, batches of 5 images, 4-4-4 "
        "blocks of 64 channels without fully connected blocks. No training. docs/generated/benchmarks.md has the "
        "memory against depth, and that of another library."
    ),
    full=Setting("The paper's networks, 16-16-16 blocks of 512, batches of 65 on a GPU: `--budget full`."),
    run=run,
)
