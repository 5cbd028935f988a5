"""Figures 15 to 18: spectral, ∞, mixed and learned norms, in two dimensions and on images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from contraflow.evaluation import densities_picture, norm_orders_picture
from contraflow.lipschitz import norm_orders
from contraflow.logdet import Exact
from contraflow.logdet.estimators import count
from contraflow.runs import RECIPES, Recipe
from contraflow.runs.build import load_data
from contraflow.runs.recipe import NormSettings
from experiments.paper.curves import Curve, curves_picture
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.paired import Difference, verdict, with_error
from experiments.paper.plan import FinishedRun, Plan, scores, total_seconds
from experiments.paper.setting import Setting

_NAMES = {
    "spectral": "p = 2 (spectral)",
    "infinity": "p = ∞",
    "mixed": "mixed, 2 and 2.4",
    "learned": "learned",
    "learned-shared": "learned, one order a block",
}
_GRID = ("spectral", "infinity", "mixed", "learned")
_BLOCKS = (1, 2, 4)
#: The depths of Figure 15 are not in the paper's text; Figure 16 has 200 blocks.
_PAPER_BLOCKS = (5, 20, 100)
_DEEPEST = 200


def _norms(kind: str, layers: int) -> NormSettings:
    """The norms of a block with `layers` layers."""
    if kind == "infinity":
        return NormSettings("mixed", [math.inf] * (layers + 1))
    if kind == "mixed":
        return NormSettings("mixed", [2.0, *[2.4] * (layers - 1), 2.0])
    if kind == "spectral":
        return NormSettings("spectral")
    return NormSettings("learned_shared" if kind == "learned-shared" else "learned")


def _label(kind: str, blocks: int) -> str:
    return f"{kind}-{blocks}"


def figure_15(plan: Plan) -> Result:
    """Held-out nats against the number of blocks."""
    blocks, runs = _depths(plan), plan.runs()
    picture = plan.picture()
    curves = {}
    for kind in _kinds(plan):
        groups = [scores(runs[_label(kind, depth)]) for depth in blocks]
        if len({len(values) for values in groups}) == 1:
            curves[_NAMES[kind]] = Curve(blocks, [list(values) for values in zip(*groups, strict=True)])
    curves_picture(curves, "blocks", "held-out nats", picture, logarithmic_x=True)
    gains = [_gain(runs, kind, depth) for kind in _kinds(plan) if kind != "spectral" for depth in blocks]
    return Result(
        tables=(_table(runs, _kinds(plan), blocks),),
        findings=gains,
        pictures=(Picture(picture.name, "Mean over seeds with a band of one standard error."),),
        values={label: scores(group) for label, group in runs.items()},
        training_seconds=total_seconds(runs),
    )


def _gain(runs: Mapping[str, Sequence[FinishedRun]], kind: str, depth: int) -> str:
    ours, spectral = scores(runs[_label(kind, depth)]), scores(runs[_label("spectral", depth)])
    if len(ours) != len(spectral):
        return f"{_NAMES[kind]}, {count(depth, 'block')}: not all seeds finished."
    difference = Difference.of(ours, spectral)
    judged = "" if kind == "mixed" else f", {verdict(difference, expected=1)}"
    return f"{_NAMES[kind]} minus p = 2, {count(depth, 'block')}: {difference} nats{judged}."


def on_images(plan: Plan) -> Result:
    """Norms on images compared with the spectral norm, and the learned orders."""
    runs = plan.runs()
    rows = [
        (_NAMES[kind], with_error(scores(group)), str(sum(bool(run.failure) for run in group)))
        for kind, group in runs.items()
    ]
    findings = []
    for kind, group in runs.items():
        ours, spectral = scores(group), scores(runs["spectral"])
        if kind != "spectral" and len(ours) == len(spectral):
            difference = Difference.of(ours, spectral)
            judged = verdict(difference, expected=1 if kind == "infinity" else -1)
            findings.append(f"{_NAMES[kind]} minus p = 2: {difference} bits/dim, {judged}.")
    return Result(
        tables=(Table(("norm", "bits/dim", "failed runs"), rows, "Mean over seeds ± standard error."),),
        findings=findings or ["Not all seeds finished."],
        pictures=_orders(plan, runs["learned"][0], ""),
        values={kind: scores(group) for kind, group in runs.items()},
        training_seconds=total_seconds(runs),
    )


def figure_16(plan: Plan) -> Result:
    """Densities of the first seed."""
    blocks, kinds = _depths(plan), _kinds(plan)
    runs = {_label(kind, depth): plan.run(_label(kind, depth), 0) for depth in blocks for kind in kinds}
    panels = {
        f"{_NAMES[kind]}, {count(depth, 'block')}": runs[_label(kind, depth)].flow().with_logdet(Exact()).log_prob
        for depth in blocks
        for kind in kinds
    }
    data = load_data(plan.recipe(_label("spectral", blocks[0]), 0).data, 0)
    picture = plan.picture()
    densities_picture(panels, data.test, picture, points=100)
    return Result(
        tables=(_table({label: [run] for label, run in runs.items()}, kinds, blocks),),
        findings=(_best(runs, kinds, blocks),),
        pictures=(Picture(picture.name, "Densities on one colour scale; one row for each number of blocks."),),
        values={label: run.value for label, run in runs.items()},
        training_seconds=sum(run.training_seconds for run in runs.values()),
    )


def _best(runs: Mapping[str, FinishedRun], kinds: Sequence[str], blocks: Sequence[int]) -> str:
    parts = []
    for depth in blocks:
        values = {kind: value for kind in kinds if (value := runs[_label(kind, depth)].value) is not None}
        best = max(values, key=lambda kind: values[kind])
        parts.append(f"{count(depth, 'block')}: {_NAMES[best]}, {values[best]:.3f} nats")
    return f"The best norm for seed 0 is, with {'; '.join(parts)}."


def figure_18(plan: Plan) -> Result:
    """The learned orders of all blocks after training."""
    runs = {label: plan.run(label, 0) for label in plan.labels()}
    pictures: list[Picture] = []
    rows, values, largest = [], {}, 0.0
    for label, run in runs.items():
        pictures += _orders(plan, run, f"-{label}")
        blocks = [list(orders) for orders in norm_orders(run.flow()).blocks.values()]
        values[label] = blocks
        for place, orders in enumerate(blocks, 1):
            largest = max(largest, *(abs(order - 2) for order in orders))
            rows.append((label, str(place), " → ".join(f"{order:.3f}" for order in orders)))
    return Result(
        tables=(Table(("run", "block", "orders p₀ → p₁ → …"), rows, "All orders start at 2; seed 0."),),
        findings=(f"The largest distance of an order from 2 is {largest:.3f}; the range of orders allows 0.5.",),
        pictures=pictures,
        values=values,
        training_seconds=sum(run.training_seconds for run in runs.values()),
    )


def _orders(plan: Plan, run: FinishedRun, suffix: str) -> list[Picture]:
    """The picture of the learned orders of a run; empty if the run failed."""
    if run.failure:
        return []
    path = plan.picture(suffix)
    norm_orders_picture(norm_orders(run.flow()), path)
    return [Picture(path.name, "Learned orders along the flow, one line for each place in a block; seed 0.")]


def _depths(plan: Plan) -> list[int]:
    return sorted({int(label.rsplit("-", 1)[-1]) for label in plan.labels()})


def _kinds(plan: Plan) -> list[str]:
    return list(dict.fromkeys(label.rsplit("-", 1)[0] for label in plan.labels()))


def _table(runs: Mapping[str, Sequence[FinishedRun]], kinds: Sequence[str], blocks: Sequence[int]) -> Table:
    rows = [(_NAMES[kind], *(with_error(scores(runs[_label(kind, depth)])) for depth in blocks)) for kind in kinds]
    head = ("norm", *(count(depth, "block") for depth in blocks))
    return Table(head, rows, "Held-out nats with exact log-determinants; mean over seeds ± standard error.")


def _checkerboard(norms: NormSettings, blocks: int) -> Recipe:
    """A recipe of docs/generated/norms.md."""
    recipe = RECIPES["checkerboard_norms"]()
    recipe.architecture.options |= {"blocks": blocks}
    recipe.architecture.norms = norms
    recipe.training.steps, recipe.training.validate_every = 600, 200
    return recipe


def _grid() -> dict[str, Recipe]:
    return {_label(kind, depth): _checkerboard(_norms(kind, layers=4), depth) for depth in _BLOCKS for kind in _GRID}


def _orders_of_four() -> dict[str, Recipe]:
    return {kind: _checkerboard(_norms(kind, layers=4), 4) for kind in ("learned", "learned-shared")}


def _paper_grid(kinds: Sequence[str], blocks: Sequence[int]) -> dict[str, Recipe]:
    recipes = {}
    for depth in blocks:
        for kind in kinds:
            recipe = recipes[_label(kind, depth)] = RECIPES["toy_paper"]()
            recipe.architecture.options |= {"blocks": depth}
            recipe.architecture.norms = _norms(kind, layers=5)
    return recipes


def _digits(kinds: Sequence[str]) -> dict[str, Recipe]:
    recipes = {}
    for kind in kinds:
        recipe = recipes[kind] = RECIPES["digits"]()
        recipe.architecture.options = {"blocks": [1, 1], "hidden": 32, "dense_blocks": 0}
        recipe.architecture.norms = _norms(kind, layers=3)
        training = recipe.training
        training.steps, training.warmup_steps, training.validate_every, training.polyak = 150, 15, 0, 0.9
        recipe.evaluation.estimator, recipe.evaluation.samples = Exact(), 1
    return recipes


def _cifar10(kinds: Sequence[str]) -> dict[str, Recipe]:
    recipes = {}
    for kind in kinds:
        recipe = recipes[kind] = RECIPES["cifar10_paper"]()
        recipe.architecture.norms = _norms(kind, layers=3)
    return recipes


_GRID_ABOUT = (
    "Checkerboard, 1, 2 and 4 blocks with three hidden layers of 64, 600 steps of 500 points, exact "
    "log-determinants, certified weights at each step. p = ∞: all layers from ∞ to ∞; mixed: 2 → 2.4 → 2.4 → 2.4 → "
    "2; learned: all orders free in (1.5, 2.5)."
)
_PAPER_ABOUT = "The authors' 2-D networks: four hidden layers of 128, c = 0.9, 50,000 steps."
_DIGITS_ABOUT = (
    "8×8 digits, 1 + 1 convolutional blocks of 32 channels, 150 steps; scores with dense Jacobians, averaged over four "
    "draws of dequantisation noise."
)
_ON_IMAGES = ("spectral", "infinity", "learned")
_LEARNED = ("spectral", "learned", "learned-shared")

FIGURE_15 = Experiment(
    about="2-D likelihood with each norm against the number of blocks",
    claims=(
        Claim("With few blocks p = ∞ and learned norms are better than the spectral norm; three seeds", "Figure 15a"),
    ),
    reduced=Setting(_GRID_ABOUT, "norms", _grid, seeds=3),
    full=Setting(_PAPER_ABOUT, "norms", lambda: _paper_grid(_GRID, _PAPER_BLOCKS), seeds=3),
    run=figure_15,
)
FIGURE_15B = Experiment(
    about="norms on images",
    claims=(
        Claim("On CIFAR-10 learned norms are slightly better than spectral ones, p = ∞ is much worse", "Figure 15b"),
    ),
    reduced=Setting(_DIGITS_ABOUT, "norms-images", lambda: _digits(_ON_IMAGES), seeds=3),
    full=Setting("CIFAR-10, 16-16-16 blocks of 512.", "norms-images", lambda: _cifar10(_ON_IMAGES)),
    run=on_images,
)
FIGURE_16 = Experiment(
    about="2-D densities with each norm",
    claims=(
        Claim(
            "Checkerboard, 200 blocks, log-determinants by brute force: with p = ∞ the density is spread evenly, with "
            "the spectral norm some density remains between the squares",
            "Figure 16",
        ),
    ),
    reduced=Setting(f"{_GRID_ABOUT} Seed 0 of the runs of Figure 15.", "norms", _grid),
    full=Setting(_PAPER_ABOUT, "norms", lambda: _paper_grid(("spectral", "infinity"), (_DEEPEST,))),
    run=figure_16,
)
FIGURE_17 = Experiment(
    about="learned norm orders on images",
    claims=(
        Claim(
            "On CIFAR-10 learned orders, all of them free or one a block, are about 0.003 bits/dim better than the "
            "spectral norm",
            "Figure 17",
        ),
    ),
    reduced=Setting(_DIGITS_ABOUT, "norms-images", lambda: _digits(_LEARNED), seeds=3),
    full=Setting("CIFAR-10, 16-16-16 blocks of 512.", "norms-images", lambda: _cifar10(_LEARNED)),
    run=on_images,
)
FIGURE_18 = Experiment(
    about="learned norm orders of all blocks",
    claims=(
        Claim(
            "CIFAR-10. The order of the first hidden state is above that of the input and the order of the second "
            "below; orders drift away from 2 with depth, and those between neighbouring blocks stay near 2",
            "Figure 18",
        ),
    ),
    reduced=Setting(
        "Checkerboard, 4 blocks with three hidden layers of 64, 600 steps, certified weights at each step: runs of "
        "docs/generated/norms.md. Orders free in (1.5, 2.5), one for each layer (learned) or one for each block "
        "(learned-shared).",
        "norms-orders",
        _orders_of_four,
    ),
    full=Setting(
        "CIFAR-10, 16-16-16 blocks of 512; the runs of Figure 17.",
        "norms-images",
        lambda: _cifar10(("learned", "learned-shared")),
    ),
    run=figure_18,
)
