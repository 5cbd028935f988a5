"""Table 3 and Figure 8: ablation of the estimator, the activation and the Lipschitz bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections import ResidualBlock
from contraflow.flow import Flow
from contraflow.logdet import Exact, PowerSeries
from contraflow.numerics.jacobian import batch_jacobian
from contraflow.runs import RECIPES, Recipe, TrainingLog, load_run
from contraflow.runs.build import load_data
from experiments.paper.curves import Curve, curves_picture
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.paired import Difference, verdict, with_error
from experiments.paper.plan import FinishedRun, Plan, scores, total_seconds
from experiments.paper.published import TABLE_3 as PUBLISHED
from experiments.paper.setting import Setting

_COLORS = {"elu": "tab:orange", "softplus": "tab:green", "swish": "tab:purple", "lipswish": "tab:blue"}
_NAMES = {"elu": "ELU", "softplus": "softplus", "swish": "Swish", "lipswish": "LipSwish"}
_BOUNDS = (0.98, 0.9)
#: Number of logged steps over which the training curve is averaged.
_WINDOW = 15
#: Number of training steps of the reduced settings.
_STEPS = 1500
#: Number of test images at which Jacobians are computed, and the largest number of dimensions.
_IMAGES, _DENSE = 20, 100


@dataclass(frozen=True)
class Cell:
    """One setting of the ablation.

    Args:
        biased: whether the series is truncated after five terms, as in i-ResNets, or estimated by Russian roulette.
        activation: of all g.
        bound: c of each layer.
    """

    biased: bool
    activation: str
    bound: float

    @property
    def label(self) -> str:
        """Name of the folder of the runs."""
        return f"{'biased' if self.biased else 'unbiased'}-{self.activation}-{self.bound:g}"

    def __str__(self) -> str:
        method = "i-ResNet" if self.biased else "Residual Flow"
        return f"{method} + {_NAMES[self.activation]}, c = {self.bound:g}"

    def recipe(self, base: Recipe) -> Recipe:
        """The base recipe with this setting."""
        base.architecture.options |= {"activation": self.activation, "bound": self.bound}
        if self.biased:
            base.estimator = PowerSeries(5)
        return base


I_RESNET = Cell(True, "elu", 0.9)
#: The paper's three rows, and the i-ResNet with the Residual Flow's bound.
_TABLE = (I_RESNET, Cell(True, "elu", 0.98), Cell(False, "elu", 0.98), Cell(False, "lipswish", 0.98))
#: Prefix of a label → recipe and options of the columns of the published table.
_COLUMNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mnist-": ("MNIST", "mnist_paper", {}),
    "cifar10-small-": ("CIFAR-10†", "cifar10_paper", {"squeeze_first": True}),
    "cifar10-": ("CIFAR-10", "cifar10_paper", {}),
}
_FIGURE = tuple(Cell(False, activation, bound) for bound in _BOUNDS for activation in _COLORS)


def _recipes(cells: Sequence[Cell], base: Callable[[], Recipe]) -> dict[str, Recipe]:
    return {cell.label: cell.recipe(base()) for cell in cells}


def _columns() -> dict[str, Recipe]:
    recipes = {}
    for prefix, (_, name, options) in _COLUMNS.items():
        for label, recipe in _recipes(_TABLE, RECIPES[name]).items():
            recipe.architecture.options |= options
            recipes[f"{prefix}{label}"] = recipe
    return recipes


def _digits(steps: int) -> Recipe:
    recipe = RECIPES["digits"]()
    recipe.architecture.options = {"blocks": [1, 1], "hidden": 32, "dense_blocks": 0}
    training = recipe.training
    training.steps, training.warmup_steps, training.validate_every = steps, steps // 10, 0
    training.polyak, training.log_every = 0.9, 1
    recipe.evaluation.estimator = Exact()
    recipe.evaluation.samples = 1
    return recipe


def table_3(plan: Plan) -> Result:
    """Scores of each row, and the differences between rows; for the full budget on each of the paper's data sets."""
    runs = plan.runs()
    i_resnet, wide, unbiased, ours = _TABLE
    pairs = ((unbiased, i_resnet), (unbiased, wide), (ours, unbiased), (ours, i_resnet))
    tables, findings = [], []
    for prefix, data in [(prefix, data) for prefix, (data, *_) in _COLUMNS.items()] if plan.full else [("", "")]:
        column = {cell.label: runs[f"{prefix}{cell.label}"] for cell in _TABLE}
        differences = [_compare(column, first, second) for first, second in pairs]
        measured = [Measured.of(cell, column[cell.label]) for cell in _TABLE]
        tables.append(_scores(measured, data))
        lines = [
            _summary(differences),
            *(text for text, _ in differences),
            *_along(column, ours, unbiased),
            *_explained(measured),
        ]
        findings += [f"{data}: {line}" if data else line for line in lines]
    return Result(tables, findings, values=_values(runs), training_seconds=total_seconds(runs))


def figure_8(plan: Plan) -> Result:
    """Scores and training curves of all activations with both bounds, and LipSwish minus each."""
    runs = plan.runs()
    differences = [
        _compare(runs, Cell(False, "lipswish", bound), Cell(False, activation, bound))
        for bound in _BOUNDS
        for activation in _COLORS
        if activation != "lipswish"
    ]
    measured = [Measured.of(cell, runs[cell.label]) for cell in _FIGURE]
    picture = plan.picture()
    curves_picture(_training_curves(runs), "step", "bits/dim of the batches, unbiased", picture)
    caption = (
        f"Training curves, means of {_WINDOW} logged steps; the bands are one standard error over seeds. Dashed: "
        "c = 0.9. Failed runs have no curve."
    )
    return Result(
        tables=(_scores(measured),),
        findings=[
            _summary(differences),
            *(text for text, _ in differences),
            *_of_the_bound(runs),
            *_explained(measured),
        ],
        pictures=(Picture(picture.name, caption),),
        values=_values(runs),
        training_seconds=total_seconds(runs),
    )


def _compare(runs: Mapping[str, Sequence[FinishedRun]], better: Cell, worse: Cell) -> tuple[str, str]:
    """The difference between two settings, the first of which is better in the paper: a sentence and the verdict."""
    first, second = _both_finished(runs[better.label], runs[worse.label])
    if not first:
        return f"{better} minus {worse}: no seed finished in both.", "not resolved"
    difference = Difference.of(first, second)
    judged = verdict(difference, expected=-1)
    return f"{better} minus {worse}: {difference} bits/dim, {judged}.", judged


def _both_finished(first: Sequence[FinishedRun], second: Sequence[FinishedRun]) -> tuple[list[float], list[float]]:
    values = [(a.value, b.value) for a, b in zip(first, second, strict=True)]
    pairs = [(a, b) for a, b in values if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _summary(differences: Sequence[tuple[str, str]]) -> str:
    verdicts = [judged for _, judged in differences]
    counted = {kind: verdicts.count(kind) for kind in ("reproduced", "not resolved", "contradicted")}
    shown = ", ".join(f"{count} {kind}" for kind, count in counted.items() if count)
    return (
        f"Of {len(verdicts)} differences that the paper reports, {shown} (95 % confidence intervals, paired by seed)."
    )


def _of_the_bound(runs: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """The effect of the larger bound for each activation."""
    lines = []
    for activation, name in _NAMES.items():
        wide, narrow = (Cell(False, activation, bound) for bound in _BOUNDS)
        larger, smaller = _both_finished(runs[wide.label], runs[narrow.label])
        if larger:
            lines.append(f"{name}: c = 0.98 minus c = 0.9 is {Difference.of(larger, smaller)} bits/dim.")
    return lines


@torch.no_grad()
def lipschitz_used(flow: Flow, x: Tensor) -> float:
    """Mean of ‖J_g(x)‖₂ over blocks and rows, by dense Jacobians: the part of the Lipschitz bound that is used."""
    norms: list[Tensor] = []

    def watch(block: ResidualBlock, inputs: tuple[Tensor, ...]) -> None:
        jacobian = batch_jacobian(lambda here: block.g.value(block.g.tensors(), here), inputs[0])
        norms.append(torch.linalg.matrix_norm(jacobian, 2))

    blocks = [module for module in flow.modules() if isinstance(module, ResidualBlock)]
    handles = [block.register_forward_pre_hook(watch) for block in blocks]
    try:
        flow(x, generator=Generator().manual_seed(0))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(norms).mean().item()


@dataclass(frozen=True)
class Measured:
    """Measurements of the runs of a cell.

    Args:
        cell: the setting.
        values: bits/dim of the runs that did not fail.
        bound: largest certified Lipschitz bound of a block, for the first of these runs.
        used: `lipschitz_used` of each of these runs at some test images; empty if Jacobians are large.
        failed: number of failed runs, and their errors.
        rows: number of test images.
    """

    cell: Cell
    values: list[float]
    bound: float | None
    used: list[float]
    failed: str
    rows: int

    @classmethod
    def of(cls, cell: Cell, runs: Sequence[FinishedRun]) -> Measured:
        """Measure the runs in their folders."""
        done = [run for run in runs if run.value is not None]
        flows = [run.flow() for run in done]
        errors = sorted({run.failure.split(":", 1)[0] for run in runs if run.failure})
        return cls(
            cell,
            scores(done),
            max(block.bound for block in flows[0].certify().blocks) if flows else None,
            [
                lipschitz_used(flow, load_data(load_run(run.folder).recipe.data, run.seed).test[:_IMAGES])
                for run, flow in zip(done, flows, strict=True)
                if flow.dimensions <= _DENSE
            ],
            f"{len(runs) - len(done)} ({', '.join(errors)})" if errors else "0",
            max((run.rows for run in runs), default=0),
        )


def _scores(measured: Sequence[Measured], data: str = "") -> Table:
    """Scores and measurements of all cells; with the published scores of a data set, if one is given."""
    rows = [
        (
            str(row.cell),
            with_error(row.values),
            "–" if row.bound is None else f"{row.bound:.3f}",
            with_error(row.used),
            row.failed,
            *((PUBLISHED.cell(str(row.cell).split(", c =")[0], data),) if data else ()),
        )
        for row in measured
    ]
    head = ("method", "bits/dim", "largest certified L of a block, seed 0", "mean ‖J_g‖₂ at test images", "failed runs")
    images = max(row.rows for row in measured)
    caption = f"Bits/dim of {images} test images{f' of {data}' if data else ''}, mean over seeds ± standard error."
    return Table((*head, *(("published",) if data else ())), rows, caption)


def _explained(measured: Sequence[Measured]) -> list[str]:
    """The correlation of scores with the use of the Lipschitz bound, and the cells that are not proved invertible."""
    lines = []
    points = [(statistics.mean(row.values), statistics.mean(row.used)) for row in measured if row.values and row.used]
    if len(points) > 2:
        from scipy.stats import spearmanr

        correlation = spearmanr(*zip(*points, strict=True)).statistic
        lines.append(
            f"Over the {len(points)} settings, bits/dim and the mean ‖J_g‖₂ at test images, the part of the Lipschitz "
            f"bound that a flow uses, have a rank correlation of {correlation:+.2f}."
        )
    loose = [f"{row.cell} ({row.bound:.3f})" for row in measured if row.bound is not None and row.bound >= 1]
    return [*lines, *([f"Not proved invertible (largest bound of a block): {', '.join(loose)}."] if loose else [])]


def _along(runs: Mapping[str, Sequence[FinishedRun]], better: Cell, worse: Cell) -> list[str]:
    """The difference between two training curves after a third, two thirds and all of the steps."""
    pairs = zip(runs[better.label], runs[worse.label], strict=True)
    logs = [(_smoothed(a), _smoothed(b)) for a, b in pairs if not a.failure and not b.failure]
    if not logs:
        return []
    steps = list(logs[0][0])
    chosen = [steps[round(part * (len(steps) - 1))] for part in (1 / 3, 2 / 3, 1)]
    gaps = [f"{with_error([first[step] - second[step] for first, second in logs])} at step {step}" for step in chosen]
    return [f"{better} minus {worse}, bits/dim of training batches: {'; '.join(gaps)}."]


def _training_curves(runs: Mapping[str, Sequence[FinishedRun]]) -> dict[str, Curve]:
    curves = {}
    for cell in _FIGURE:
        logs = [_smoothed(run) for run in runs[cell.label] if not run.failure]
        if logs:
            name, dashed = f"{_NAMES[cell.activation]}, {cell.bound:g}", cell.bound < max(_BOUNDS)
            curves[name] = Curve(list(logs[0]), [list(log.values()) for log in logs], _COLORS[cell.activation], dashed)
    return curves


def _smoothed(run: FinishedRun) -> dict[int, float]:
    """Step → mean bits/dim of the last `_WINDOW` logged steps."""
    lines = TrainingLog(run.folder).records()
    parts = [lines[at : at + _WINDOW] for at in range(0, len(lines) - _WINDOW + 1, _WINDOW)]
    return {part[-1]["step"]: statistics.mean(line["bits_per_dim"] for line in part) for part in parts}


def _values(runs: Mapping[str, Sequence[FinishedRun]]) -> dict[str, list[float | str | None]]:
    return {label: [run.failure or run.value for run in group] for label, group in runs.items()}


def _reduced(cells: Sequence[Cell]) -> Setting:
    about = (
        f"8×8 digits: 1 + 1 convolutional blocks of 32 channels, {_STEPS:,} steps of 64 images, learning rate 0.02 "
        "with a cosine schedule; the same initial weights and the same batches for all methods. Scores are computed "
        "with dense Jacobians, without bias and noise of the log-determinant, and averaged over four draws of "
        "dequantisation noise. In much shorter runs ELU is ahead of LipSwish."
    )
    return Setting(about, f"ablation-{_STEPS}", lambda: _recipes(cells, lambda: _digits(_STEPS)), seeds=3)


_SATURATION = Claim(
    "ELU and softplus are not optimal: where their slope is near one, their second derivative vanishes, and so does "
    "the gradient of the log-determinant. LipSwish does not saturate there",
    "section 3.3",
)

TABLE_3 = Experiment(
    about="ablation of the unbiased objective and LipSwish",
    claims=(Claim("Both the unbiased objective and LipSwish lower the bits/dim", "Table 3"), _SATURATION),
    reduced=_reduced(_TABLE),
    full=Setting(
        "MNIST, CIFAR-10 with a squeeze before the first block (†), and CIFAR-10: 16-16-16 blocks of 512.",
        "ablation",
        _columns,
    ),
    run=table_3,
    published=(PUBLISHED,),
)

FIGURE_8 = Experiment(
    about="activations with both Lipschitz bounds",
    claims=(Claim("The figure compares activations on CIFAR-10", "Figure 8"), _SATURATION),
    reduced=_reduced(_FIGURE),
    full=Setting(
        "CIFAR-10, 16-16-16 blocks of 512.", "activations", lambda: _recipes(_FIGURE, RECIPES["cifar10_paper"])
    ),
    run=figure_8,
)
