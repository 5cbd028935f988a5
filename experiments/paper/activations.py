"""Figure 4: first and second derivatives of the activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contraflow.evaluation.figures import colour, png_figure
from contraflow.lipschitz.activations import ACTIVATIONS
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_END, _POINTS = 5.0, 20_001
#: A slope counts as near the largest slope if it is at least this part of it.
_NEAR = 0.95
_NAMES = {"relu": "ReLU", "elu": "ELU", "softplus": "softplus", "swish": "Swish", "lipswish": "LipSwish"}


@dataclass(frozen=True)
class Derivatives:
    """φ' and φ'' on a grid of [-5, 5], and φ'' where φ' is near its largest value.

    Attributes:
        z, first, second: the grid and the derivatives.
        largest: max |φ'|.
        share: the share of the grid where |φ'| >= 0.95 max |φ'|.
        curvature: the mean of |φ''| on this share.
    """

    z: Tensor
    first: Tensor
    second: Tensor
    largest: float
    share: float
    curvature: float

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> Derivatives:
        """Compute the derivatives by automatic differentiation in float64.

        >>> softplus = Derivatives.of(torch.nn.functional.softplus)
        >>> round(softplus.share, 3), round(softplus.curvature, 3)
        (0.218, 0.023)
        """
        z = torch.linspace(-_END, _END, _POINTS, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), z)
        else:
            second = torch.zeros_like(z)  # piecewise linear
        first = first.detach()
        near = first.abs() >= _NEAR * first.abs().max()
        curvature = second.abs()[near].mean().item()
        return cls(z.detach(), first, second, first.abs().max().item(), near.double().mean().item(), curvature)


def run(plan: Plan) -> Result:
    """The derivatives of all activations, as a table and a picture."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        **{name: make().double() for name, make in ACTIVATIONS.items()},
    }
    of = {name: Derivatives.of(functions[name]) for name in _NAMES}
    picture = plan.picture()
    derivatives_picture(of, picture)
    rows = [
        (_NAMES[name], f"{row.largest:.4f}", f"{row.share:.3f}", f"{row.curvature:.4f}") for name, row in of.items()
    ]
    head = ("φ", "max \\|φ'\\|", "share of [-5, 5] with \\|φ'\\| ≥ 0.95 max", "mean \\|φ''\\| there")
    ratios = {name: of["lipswish"].curvature / of[name].curvature for name in ("elu", "softplus")}
    finding = (
        "Where its slope is within 5 % of the largest slope, LipSwish has a mean |φ''| of "
        f"{of['lipswish'].curvature:.3f}, {ratios['softplus']:.1f} times that of softplus and {ratios['elu']:.1f} "
        "times that of ELU; for ReLU φ'' is zero everywhere."
    )
    return Result(
        tables=(Table(head, rows),),
        findings=(finding,),
        pictures=(Picture(picture.name, "φ' (solid) and φ'' (dashed). Where φ' is largest, φ'' should not be zero."),),
        values={
            name: {"largest": row.largest, "share": row.share, "curvature": row.curvature} for name, row in of.items()
        },
    )


def derivatives_picture(derivatives: dict[str, Derivatives], path: Path) -> None:
    """One panel for each activation, with its first and second derivative."""
    with png_figure(path, 2.4 * len(derivatives), 2.6, dpi=130) as figure:
        panels = figure.subplots(1, len(derivatives), sharey=True)
        for axes, (name, of) in zip(panels, derivatives.items(), strict=True):
            axes.plot(of.z, of.first, label="φ'")
            axes.plot(of.z, of.second, linestyle="--", label="φ''")
            axes.axhline(1, color=colour("quiet"), linewidth=0.5)
            axes.set(title=_NAMES[name], xlabel="z")
        panels[0].legend()


_NOTHING_TRAINED = Setting(
    "No training: derivatives by automatic differentiation in float64, with the initial β = 0.974."
)

FIGURE_4 = Experiment(
    about="first and second derivatives of the activations",
    claims=(
        Claim(
            "Smooth Lipschitz activations usually have a vanishing φ'' where φ' is largest: that of ELU and softplus "
            "tends to zero there. LipSwish, which is not monotonic, does not saturate where its slope is near one",
            "Figure 4 and section 3.3",
        ),
        Claim("max |d/dz Swish(z)| ≲ 1.1, so LipSwish = Swish/1.1 is 1-Lipschitz for all β", "section 3.3"),
    ),
    reduced=_NOTHING_TRAINED,
    full=_NOTHING_TRAINED,
    run=run,
)
