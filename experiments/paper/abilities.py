"""The lecture's table of abilities: what each family of flows can do, measured on small flows of the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contraflow.architectures import ARCHITECTURES
from contraflow.bijections import Bijection
from contraflow.flow import Flow
from contraflow.lipschitz import update_lipschitz
from experiments.paper.experiment import Claim, Experiment, Result, Table
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_FEATURES = 6
#: Family → architecture, and options that make it small: two layers, so that none is a composition of transforms.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "NICE": ("nice", {"couplings": 2, "hidden": (8,)}),
    "Real NVP": ("real_nvp", {"levels": 1, "blocks": 1, "hidden": 8}),
    "Glow": ("glow", {"levels": 1, "steps": 2, "hidden": 8}),
    "MAF": ("maf", {"transforms": 1, "hidden": (16,)}),
    "IAF": ("iaf", {"transforms": 1, "hidden": (16,)}),
    "planar": ("planar", {"layers": 2}),
    "Sylvester": ("sylvester", {"layers": 2, "components": 2}),
    "FFJORD": ("ffjord", {"hidden": (16,), "adjoint": False}),
    "i-ResNet": ("iresnet", {"blocks": 2, "hidden": (16, 16)}),
    "Residual Flow": ("residual_flow_table", {"blocks": 2, "hidden": (16, 16)}),
}
#: A direction is one pass if it takes at most this many times the operations of the cheaper direction.
_ONE_PASS = 3.0


@dataclass(frozen=True)
class Abilities:
    """What a family of flows can do.

    Attributes:
        density, sampling: whether the direction takes one pass, that is about as many operations as the other one.
        likelihood: how the log-determinant is computed.
        free_form: whether the Jacobian of some non-linear layer has no structure: no entry is zero, and J - I has full
            rank.
    """

    density: bool
    sampling: bool
    likelihood: str
    free_form: bool

    @classmethod
    def of(cls, flow: Flow) -> Abilities:
        """Measure a flow on vectors, with the weights that it has.

        >>> Abilities.of(small_flow("NICE"))
        Abilities(density=True, sampling=True, likelihood='exact log-determinant', free_form=False)
        """
        x = torch.randn(1, flow.dimensions, dtype=flow.dtype, generator=Generator().manual_seed(0))
        with torch.no_grad():
            z = flow.bijection(x)
            forward, inverse = operations(flow.bijection.forward, x), operations(flow.bijection.inverse, z)
        limit = _ONE_PASS * min(forward, inverse)
        layers = [module for module in flow.bijection.modules() if _is_layer(module)]
        free_form = any(has_free_form(layer.forward, flow.dimensions, flow.dtype) for layer in layers)
        return cls(forward <= limit, inverse <= limit, flow.estimator_name, free_form)


def small_flow(family: str) -> Flow:
    """A small flow of a family, with random weights in place of its initial ones."""
    name, options = _FAMILIES[family]
    torch.manual_seed(0)
    flow = ARCHITECTURES[name]((_FEATURES,), **options).double()
    flow.log_prob(torch.randn(100, _FEATURES, dtype=torch.float64))  # initialises ActNorm
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    update_lipschitz(flow)
    return flow


class _Counter(TorchDispatchMode):
    """Counts operations on tensors."""

    count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """The number of operations on tensors in a call.

    >>> operations(lambda x: (x + 1).exp(), torch.zeros(3))
    2
    """
    with _Counter() as counter:
        function(x)
    return counter.count


def _is_layer(module: object) -> bool:
    """Whether a module is a bijection that contains no other bijection."""
    return isinstance(module, Bijection) and not any(
        isinstance(child, Bijection) for child in module.modules() if child is not module
    )


def has_free_form(function: Callable[[Tensor], Tensor], features: int, dtype: torch.dtype) -> bool:
    """Whether the Jacobian of a map from ``(1, D)`` to ``(1, D)`` is neither constant nor structured.

    >>> has_free_form(lambda x: x + 0.1 * (x @ torch.randn(3, 3).sin()).sin(), 3, torch.float32)
    True
    >>> has_free_form(lambda x: x.sin(), 3, torch.float32)  # diagonal
    False
    """
    generator = Generator().manual_seed(1)
    first, second = (
        torch.autograd.functional.jacobian(
            lambda v: function(v[None])[0], torch.randn(features, dtype=dtype, generator=generator)
        )
        for _ in range(2)
    )
    full_rank = torch.linalg.matrix_rank(first - torch.eye(features, dtype=dtype)) == features
    return bool((first != 0).all()) and bool(full_rank) and not torch.allclose(first, second)


def run(plan: Plan) -> Result:
    """Measure all families."""
    measured = {family: Abilities.of(small_flow(family)) for family in _FAMILIES}
    rows = [
        (family, _yes(row.density), _yes(row.sampling), row.likelihood, _yes(row.free_form))
        for family, row in measured.items()
    ]
    head = ("family", "density in one pass", "sampling in one pass", "log-likelihood", "free-form Jacobian")
    free = ", ".join(family for family, row in measured.items() if row.free_form)
    return Result(
        tables=(Table(head, rows, f"Small flows in {_FEATURES} dimensions with random weights."),),
        findings=(f"The Jacobian has free form for: {free}.",),
        values={family: asdict(row) for family, row in measured.items()},
    )


def _yes(ability: bool) -> str:
    return "yes" if ability else "no"


_NO_TRAINING = Setting(
    "No training. A direction counts as one pass if it takes at most three times the tensor operations of the "
    "cheaper direction; both directions of FFJORD solve a differential equation. The likelihood is named by the "
    "estimator of the log-determinant. A Jacobian has free form if, for some non-linear layer, it has no zero entry "
    "and J - I has full rank."
)

ABILITIES = Experiment(
    about="abilities of the families of flows",
    claims=(
        Claim(
            "MAF, TAN and reverse flows have an exact likelihood, but neither one-pass sampling nor a free-form "
            "Jacobian; NICE, Real NVP, Glow and planar flows have one-pass sampling and an exact likelihood, but no "
            "free-form Jacobian; FFJORD has all of them",
            "lecture, table of abilities",
        ),
        Claim("Residual Flows have a dense Jacobian; sampling and density need iterations", "lecture"),
    ),
    reduced=_NO_TRAINING,
    full=_NO_TRAINING,
    run=run,
)
