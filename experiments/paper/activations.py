"""Figure 4: first and second derivatives of the activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contraflow.files import replacing
from contraflow.lipschitz.activations import ACTIVATIONS
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_END, _POINTS = 5.0, 20_001
#: A slope of at least this part of the largest one counts as near it.
_NEAR = 0.95
_NAMES = {"relu": "ReLU", "elu": "ELU", "softplus": "softplus", "swish": "Swish", "lipswish": "LipSwish"}


@dataclass(frozen=True)
class Derivatives:
    """φ' and φ'' on a grid of [-5, 5], and where φ' is near its largest value.

    Attributes:
        z, first, second: the grid and the derivatives.
        largest: max |φ'|.
        share: the part of the grid where |φ'| >= 0.95 max |φ'|.
        curvature: the mean of |φ''| there.
    """

    z: Tensor
    first: Tensor
    second: Tensor
    largest: float
    share: float
    curvature: float

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> Derivatives:
        """By automatic differentiation in float64.

        >>> found = Derivatives.of(torch.nn.functional.softplus)
        >>> round(found.share, 3), round(found.curvature, 3)
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
    """The derivatives of every activation, as a table and a picture."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        **{name: make().double() for name, make in ACTIVATIONS.items()},
    }
    found = {name: Derivatives.of(functions[name]) for name in _NAMES}
    picture = plan.picture()
    with replacing(picture) as temporary:
        derivatives_picture(found, temporary)
    rows = [
        (_NAMES[name], f"{one.largest:.4f}", f"{one.share:.3f}", f"{one.curvature:.4f}") for name, one in found.items()
    ]
    head = ("φ", "max \\|φ'\\|", "part of [-5, 5] where \\|φ'\\| ≥ 0.95 max", "mean \\|φ''\\| there")
    others = {name: found["lipswish"].curvature / found[name].curvature for name in ("elu", "softplus")}
    finding = (
        f"Where its slope is within 5 % of the largest, LipSwish keeps a mean |φ''| of "
        f"{found['lipswish'].curvature:.3f}, which is {others['softplus']:.1f} times that of softplus and "
        f"{others['elu']:.1f} times that of ELU; ReLU has none anywhere."
    )
    return Result(
        tables=(Table(head, rows),),
        findings=(finding,),
        pictures=(Picture(picture.name, "φ' (solid) and φ'' (dashed). Where φ' is largest, φ'' should not be zero."),),
        values={
            name: {"largest": one.largest, "share": one.share, "curvature": one.curvature}
            for name, one in found.items()
        },
    )


def derivatives_picture(found: dict[str, Derivatives], path: Path) -> None:
    """A panel an activation: first and second derivative."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(found), 2.6), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axes.plot(one.z, one.first, color="tab:blue", label="φ'")
        axes.plot(one.z, one.second, color="tab:orange", linestyle="--", label="φ''")
        axes.axhline(1, color="grey", linewidth=0.5)
        axes.set(title=_NAMES[name], xlabel="z")
    figure.axes[0].legend()
    figure.savefig(path, format="png", dpi=130)


_NOTHING_TRAINED = Setting(
    "Nothing is trained: derivatives by automatic differentiation in float64, β = 0.974 (its start)."
)

FIGURE_4 = Experiment(
    about="first and second derivatives of the activations",
    claims=(
        Claim(
            "Smooth Lipschitz activations usually have a vanishing φ'' where φ' is largest: for ELU and softplus it "
            "saturates to zero there. LipSwish, being non-monotonic, does not saturate where its slope is near one",
            "Figure 4 and section 3.3",
            "the text of section 3.3",
        ),
        Claim(
            "max |d/dz Swish(z)| ≲ 1.1, so LipSwish = Swish/1.1 is 1-Lipschitz for every β", "section 3.3", "its text"
        ),
    ),
    reduced=_NOTHING_TRAINED,
    full=_NOTHING_TRAINED,
    run=run,
)
