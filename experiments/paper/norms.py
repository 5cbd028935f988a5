"""Figures 15 to 18: spectral, ∞, mixed and learned norms, on the checkerboard and on images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from contraflow.evaluation import densities_picture, norm_orders_picture
from contraflow.files import replacing
from contraflow.lipschitz import norm_orders
from contraflow.logdet import Exact
from contraflow.runs import RECIPES, Recipe
from contraflow.runs.build import load_data
from contraflow.runs.recipe import NormSettings
from experiments.paper.curves import Curve, curves_picture
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.paired import Difference, verdict, with_error
from experiments.paper.plan import Plan, Run, scores, total_seconds
from experiments.paper.setting import Setting

_NAMES = {"spectral": "p = 2 (spectral)", "infinity": "p = ∞", "mixed": "mixed, 2 and 2.4", "learned": "learned"}
_BLOCKS = (1, 2, 4)
_PAPER_BLOCKS = (5, 20, 100)


def _norms(kind: str, layers: int) -> NormSettings:
    """The norms of a block with so many layers."""
    if kind == "infinity":
        return NormSettings("mixed", [math.inf] * (layers + 1))
    if kind == "mixed":
        return NormSettings("mixed", [2.0, *[2.4] * (layers - 1), 2.0])
    return NormSettings("spectral") if kind == "spectral" else NormSettings("learned")


def _label(kind: str, blocks: int) -> str:
    return f"{kind}-{blocks}"


def figure_15(plan: Plan) -> Result:
    """Densities of the first seed."""
    blocks = _depths(plan)
    runs = {_label(kind, depth): plan.run(_label(kind, depth), 0) for depth in blocks for kind in _NAMES}
    panels = {
        f"{name}, {depth} block{'s' * (depth > 1)}": runs[_label(kind, depth)].flow().with_logdet(Exact()).log_prob
        for depth in blocks
        for kind, name in _NAMES.items()
    }
    data = load_data(plan.recipe(_label("spectral", blocks[0]), 0).data, 0)
    picture = plan.picture()
    with replacing(picture) as temporary:
        densities_picture(panels, data.test, temporary, points=100)
    return Result(
        tables=(_table({label: [one] for label, one in runs.items()}, blocks),),
        findings=(_best(runs, blocks),),
        pictures=(Picture(picture.name, "Densities in one scale of colours; a row for every number of blocks."),),
        values={label: one.value for label, one in runs.items()},
        training_seconds=sum(one.training_seconds for one in runs.values()),
    )


def _best(runs: Mapping[str, Run], blocks: Sequence[int]) -> str:
    parts = []
    for depth in blocks:
        values = {name: runs[_label(kind, depth)].value for kind, name in _NAMES.items()}
        best = max((name for name, value in values.items() if value is not None), key=lambda name: values[name] or 0.0)
        parts.append(f"{depth} block{'s' * (depth > 1)}: {best}, {values[best]:.3f} nats")
    return f"Seed 0, the best norm at {'; '.join(parts)}."


def figure_16(plan: Plan) -> Result:
    """Held-out nats against the number of blocks."""
    blocks, runs = _depths(plan), plan.runs()
    picture = plan.picture()
    curves = {}
    for kind, name in _NAMES.items():
        groups = [scores(runs[_label(kind, depth)]) for depth in blocks]
        if len({len(one) for one in groups}) == 1:
            curves[name] = Curve(blocks, [list(one) for one in zip(*groups, strict=True)])
    with replacing(picture) as temporary:
        curves_picture(curves, "blocks", "held-out nats", temporary, logarithmic=True)
    gains = [_gain(runs, kind, depth) for kind in _NAMES if kind != "spectral" for depth in blocks]
    return Result(
        tables=(_table(runs, blocks),),
        findings=gains,
        pictures=(Picture(picture.name, "Mean over seeds with a band of one standard error."),),
        values={label: scores(group) for label, group in runs.items()},
        training_seconds=total_seconds(runs),
    )


def _gain(runs: Mapping[str, Sequence[Run]], kind: str, depth: int) -> str:
    ours, base = scores(runs[_label(kind, depth)]), scores(runs[_label("spectral", depth)])
    blocks = f"{depth} block{'s' * (depth > 1)}"
    if len(ours) != len(base):
        return f"{_NAMES[kind]}, {blocks}: not every seed finished."
    found = Difference.of(ours, base)
    judged = "" if kind == "mixed" else f", {verdict(found, expected=1)}"
    return f"{_NAMES[kind]} less p = 2, {blocks}: {found} nats{judged}."


def figure_17(plan: Plan) -> Result:
    """Norms on images, against the spectral one, and the learned orders."""
    runs = plan.runs()
    rows = [(_NAMES[kind], with_error(scores(group)), _failed(group)) for kind, group in runs.items()]
    findings = []
    for kind, group in runs.items():
        ours, base = scores(group), scores(runs["spectral"])
        if kind != "spectral" and len(ours) == len(base):
            found = Difference.of(ours, base)
            judged = f", {verdict(found, expected=-1)}" if kind == "learned" else ""
            findings.append(f"{_NAMES[kind]} less p = 2: {found} bits/dim{judged}.")
    picture = _orders(plan, runs["learned"][0], "")
    return Result(
        tables=(Table(("norm", "bits/dim", "failed runs"), rows, "Mean over seeds ± its standard error."),),
        findings=findings or ["Not every seed finished."],
        pictures=picture,
        values={kind: scores(group) for kind, group in runs.items()},
        training_seconds=total_seconds(runs),
    )


def figure_18(plan: Plan) -> Result:
    """The orders that the learned norms end with, block by block."""
    runs = {label: plan.run(label, 0) for label in plan.labels()}
    pictures: list[Picture] = []
    rows, farthest = [], 0.0
    for label, run in runs.items():
        pictures += _orders(plan, run, f"-{label}")
        for place, orders in enumerate(norm_orders(run.flow()).blocks.values(), 1):
            farthest = max(farthest, *(abs(order - 2) for order in orders))
            rows.append((label, str(place), " → ".join(f"{order:.3f}" for order in orders)))
    return Result(
        tables=(Table(("run", "block", "orders p₀ → p₁ → …"), rows, "All orders start at 2; seed 0."),),
        findings=(f"The order that moved farthest from 2 did so by {farthest:.3f}, of the 0.5 that it may.",),
        pictures=pictures,
        values={label: [list(one) for one in norm_orders(run.flow()).blocks.values()] for label, run in runs.items()},
        training_seconds=sum(one.training_seconds for one in runs.values()),
    )


def _orders(plan: Plan, run: Run, suffix: str) -> list[Picture]:
    """The picture of a run's learned orders, where the run finished."""
    if run.failure:
        return []
    path = plan.picture(suffix)
    with replacing(path) as temporary:
        norm_orders_picture(norm_orders(run.flow()), temporary)
    return [Picture(path.name, "Learned orders along the flow, a line for each place in a block; seed 0.")]


def _depths(plan: Plan) -> list[int]:
    return sorted({int(label.rsplit("-", 1)[-1]) for label in plan.labels()})


def _table(runs: Mapping[str, Sequence[Run]], blocks: Sequence[int]) -> Table:
    rows = [
        (name, *(with_error(scores(runs[_label(kind, depth)])) for depth in blocks)) for kind, name in _NAMES.items()
    ]
    head = ("norm", *(f"{depth} block{'s' * (depth > 1)}" for depth in blocks))
    return Table(head, rows, "Held-out nats, exact log-determinants; mean over seeds ± its standard error.")


def _failed(runs: Sequence[Run]) -> str:
    return str(sum(bool(one.failure) for one in runs))


def _checkerboard(norms: NormSettings, blocks: int) -> Recipe:
    """As for docs/norms.md, whose runs are among these."""
    recipe = RECIPES["checkerboard_norms"]()
    recipe.architecture.options |= {"blocks": blocks}
    recipe.architecture.norms = norms
    recipe.training.steps, recipe.training.validate_every = 600, 200
    return recipe


def _grid() -> dict[str, Recipe]:
    return {_label(kind, depth): _checkerboard(_norms(kind, layers=4), depth) for depth in _BLOCKS for kind in _NAMES}


def _orders_of_four() -> dict[str, Recipe]:
    kinds = {"learned": NormSettings("learned"), "learned-shared": NormSettings("learned_shared")}
    return {label: _checkerboard(kind, 4) for label, kind in kinds.items()}


def _paper_grid() -> dict[str, Recipe]:
    found = {}
    for depth in _PAPER_BLOCKS:
        for kind in _NAMES:
            recipe = found[_label(kind, depth)] = RECIPES["toy_paper"]()
            recipe.architecture.options |= {"blocks": depth}
            recipe.architecture.norms = _norms(kind, layers=5)
    return found


def _digits() -> dict[str, Recipe]:
    found = {}
    for kind in ("spectral", "infinity", "learned"):
        recipe = found[kind] = RECIPES["digits"]()
        recipe.architecture.options = {"blocks": [1, 1], "hidden": 32, "dense_blocks": 0}
        recipe.architecture.norms = _norms(kind, layers=3)
        training = recipe.training
        training.steps, training.warmup_steps, training.validate_every, training.polyak = 150, 15, 0, 0.9
        recipe.evaluation.estimator, recipe.evaluation.samples = Exact(), 1
    return found


def _cifar10() -> dict[str, Recipe]:
    found = {}
    for kind in ("spectral", "infinity", "learned"):
        recipe = found[kind] = RECIPES["cifar10_paper"]()
        recipe.architecture.norms = _norms(kind, layers=3)
    return found


def _only_learned(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    return {label: one for label, one in recipes.items() if label.startswith("learned")}


_LOW = Claim(
    "The Lipschitz condition holds in any p-norm and in mixed ones; norms such as p = ∞ constrain low-dimensional data "
    "more suitably than the spectral one",
    "section 5.1 and Appendix D",
    "the text of section 5.1",
)
_GAIN = Claim(
    "Learning the orders with the model gains 0.003 bits/dim over spectral normalisation on CIFAR-10",
    "section 5.1",
    "its text",
)
_GRID_ABOUT = (
    "Checkerboard, 1, 2 and 4 blocks of three hidden layers of 64, 600 steps of 500 points, exact log-determinants, "
    "every step with certified weights. p = ∞: every layer from ∞ to ∞; mixed: 2 → 2.4 → 2.4 → 2.4 → 2; learned: every "
    "order free in (1.5, 2.5)."
)
_CURVES = Setting(_GRID_ABOUT, "norms", _grid, seeds=3)
_FIRST = Setting(f"{_GRID_ABOUT} Seed 0 of Figure 16's runs.", "norms", _grid)
_PAPER = Setting("The authors' 2-D networks: four hidden layers of 128, c = 0.9, 50,000 steps.", "norms", _paper_grid)

FIGURE_15 = Experiment("densities under each norm at growing depth", (_LOW,), _FIRST, _PAPER, figure_15)
FIGURE_16 = Experiment("likelihood under each norm at growing depth", (_LOW,), _CURVES, _PAPER, figure_16)
FIGURE_17 = Experiment(
    about="norms on images",
    claims=(_GAIN,),
    reduced=Setting(
        "8×8 digits, 1 + 1 convolutional blocks of 32 channels, 150 steps; scored "
        "on the test images with dense Jacobians, averaged over four draws of dequantisation noise.",
        "norms-images",
        _digits,
        seeds=3,
    ),
    full=Setting("CIFAR-10, 16-16-16 blocks of 512.", "norms-images", _cifar10),
    run=figure_17,
)
FIGURE_18 = Experiment(
    about="the learned orders, block by block",
    claims=(Claim("The learned orders, drawn along the blocks of the flow", "Figure 18"),),
    reduced=Setting(
        "Checkerboard, 4 blocks of three hidden layers of 64, 600 steps, every step with certified weights: runs of "
        "docs/norms.md. Orders free in (1.5, 2.5), one for every layer (learned), or one a block (learned-shared).",
        "norms-orders",
        _orders_of_four,
    ),
    full=Setting(_PAPER.about, "norms", lambda: _only_learned(_paper_grid())),
    run=figure_18,
)
