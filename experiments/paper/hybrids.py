"""Tables 4 and 5: hybrid models with residual blocks and with coupling blocks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from contraflow.runs import RECIPES, Recipe, TrainingLog
from contraflow.training import Hybrid
from experiments.paper.experiment import Claim, Experiment, Result, Table
from experiments.paper.paired import Difference, verdict, with_error
from experiments.paper.plan import FinishedRun, Plan, total_seconds
from experiments.paper.published import TABLE_4_MNIST, TABLE_4_SVHN
from experiments.paper.published import TABLE_5 as PUBLISHED_5
from experiments.paper.setting import Setting

Weight = float | Literal["1/D"]

BLOCKS = {"coupling": "coupling", "coupling_conv1x1": "coupling + 1×1 convolution", "residual": "residual"}
WEIGHTS: dict[str, Weight] = {"0": 0.0, "1_d": "1/D", "1": 1.0}
#: The small flow of the reduced settings.
SMALL = {"blocks": [2, 2], "hidden": 32, "dense_blocks": 0, "branch_features": 64}
#: Suffix of the labels of longer runs.
LONG = "-long"


def changed(name: str, options: Mapping[str, Any], weight: Weight, training: Mapping[str, Any]) -> Recipe:
    """A named recipe with changes of its architecture options, likelihood weight and training settings."""
    recipe = RECIPES[name]()
    recipe.architecture.options = dict(options)
    recipe.objective = Hybrid(weight)
    for key, value in training.items():
        setattr(recipe.training, key, value)
    return recipe


def recipes(name: str, options: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Recipe]:
    """A named recipe, changed, for each block and likelihood weight."""
    return {
        f"{block}-{label}": changed(name, {**options, "block": block}, weight, training)
        for block in BLOCKS
        for label, weight in WEIGHTS.items()
    }


def with_longer(name: str, options: Mapping[str, Any], steps: int) -> dict[str, Recipe]:
    """A recipe for each block and likelihood weight, and for λ = 1/D another one with four times the steps."""

    def of(steps: int) -> dict[str, Recipe]:
        return recipes(name, options, {"steps": steps, "warmup_steps": steps // 10, "validate_every": 0})

    longer = {f"{label}{LONG}": recipe for label, recipe in of(4 * steps).items() if label.endswith("-1_d")}
    return of(steps) | longer


def small_digits() -> dict[str, Recipe]:
    """The reduced setting of Table 4."""
    changed_recipes = with_longer("digits_hybrid", SMALL, 400)
    for recipe in changed_recipes.values():
        residual = recipe.architecture.options["block"] == "residual"
        recipe.training.learning_rate = 2e-2 if residual else 1e-2
        recipe.evaluation.draws, recipe.evaluation.samples = 1, 4
    return changed_recipes


def small_cifar10() -> dict[str, Recipe]:
    """The reduced setting of Table 5."""
    changed_recipes = with_longer("cifar10_hybrid", {**SMALL, "blocks": [1, 1, 1]}, 300)
    for recipe in changed_recipes.values():
        recipe.evaluation.limit, recipe.evaluation.samples = 500, 4
    return changed_recipes


def scores(runs: Sequence[FinishedRun], name: str) -> list[float]:
    """Bits per dimension, or a score of the classifier, of the runs that did not fail."""
    reports = [
        json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8")) for run in runs if not run.failure
    ]
    return [report["value"] if name == "bits" else report["classification"][name] for report in reports]


def run(plan: Plan) -> Result:
    """Accuracy and bits per dimension for each block and likelihood weight."""
    runs_of = plan.runs()
    head = [
        "blocks",
        "λ = 0: accuracy",
        *(f"λ = {w}: {what}" for w in ("1/D", "1") for what in ("bits/dim", "accuracy")),
    ]
    rows = [[name, *_cells(runs_of, block)] for block, name in BLOCKS.items()]
    values = {
        label: {name: scores(runs, name) for name in ("bits", "accuracy", "cross_entropy", "calibration_error", "rows")}
        for label, runs in runs_of.items()
    }
    seconds = total_seconds(runs_of)
    caption = "Test accuracy in per cent, and bits per dimension; mean ± standard error over seeds."
    suffix = LONG if f"residual-1_d{LONG}" in runs_of else ""
    curves = {block: training_curve(runs_of[f"{block}-1_d{suffix}"]) for block in BLOCKS}
    tables = [Table(head, rows, caption), _comparison(values), *_longer(values), *_during_training(curves)]
    return Result(tables, [*_findings(values), *_gap(curves)], (), values, seconds)


def training_curve(runs: Sequence[FinishedRun]) -> dict[int, float]:
    """Last step of each quarter → bits per dimension of the batches logged in its second half, mean over runs."""
    curves = []
    for run in runs:
        if not run.failure:
            lines = TrainingLog(run.folder).records()
            quarter = len(lines) // 4
            ends = [quarter * part for part in (1, 2, 3, 4)]
            parts = [lines[end - max(1, quarter // 2) : end] for end in ends]
            curves.append({part[-1]["step"]: statistics.mean(line["bits_per_dim"] for line in part) for part in parts})
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return {step: statistics.mean(curve[step] for curve in curves) for step in shared}


def _longer(values: Mapping[str, Mapping[str, list[float]]]) -> list[Table]:
    rows = [
        [name, with_error(values[label]["bits"]), _percent(values[label]["accuracy"])]
        for block, name in BLOCKS.items()
        if (label := f"{block}-1_d{LONG}") in values
    ]
    head = ["blocks", "λ = 1/D: bits/dim", "λ = 1/D: accuracy"]
    return [Table(head, rows, "The same with four times the steps.")] if rows else []


def _during_training(curves: Mapping[str, Mapping[int, float]]) -> list[Table]:
    steps = [step for step in curves["residual"] if all(step in curve for curve in curves.values())]
    if not steps:
        return []
    rows = [[name, *(f"{curves[block][step]:.3f}" for step in steps)] for block, name in BLOCKS.items()]
    head = ["blocks", *(f"step {step}" for step in steps)]
    caption = (
        "Bits per dimension of training batches with λ = 1/D, averaged over the last eighth of the steps before the "
        "named step; mean over seeds."
    )
    return [Table(head, rows, caption)]


def _gap(curves: Mapping[str, Mapping[int, float]]) -> list[str]:
    ours, theirs = curves["residual"], curves["coupling"]
    gaps = {step: ours[step] - theirs[step] for step in ours if step in theirs}
    if len(gaps) < 2:
        return []
    first, last = min(gaps), max(gaps)
    return [
        f"On training batches with λ = 1/D, residual blocks minus couplings is {gaps[first]:+.3f} bits/dim after "
        f"{first} steps and {gaps[last]:+.3f} after {last}."
    ]


def _cells(runs_of: Mapping[str, Sequence[FinishedRun]], block: str) -> list[str]:
    cells = [_percent(scores(runs_of[f"{block}-0"], "accuracy"))]
    for weight in ("1_d", "1"):
        runs = runs_of[f"{block}-{weight}"]
        cells += [with_error(scores(runs, "bits")), _percent(scores(runs, "accuracy"))]
    return cells


def _percent(values: Sequence[float]) -> str:
    return with_error([100 * value for value in values], 1)


#: Measure → the sign of residual minus coupling in the paper.
_EXPECTED = {"bits": -1.0, "accuracy": 1.0}
_NAMES = {"bits": "bits/dim", "accuracy": "accuracy, per cent"}


def _differences(values: Mapping[str, Mapping[str, list[float]]]) -> dict[tuple[str, str, str], Difference]:
    """(other block, weight, measure) → residual minus the other block, paired by seed."""
    differences = {}
    for block in ("coupling", "coupling_conv1x1"):
        for weight in (*WEIGHTS, f"1_d{LONG}"):
            if f"residual-{weight}" not in values:
                continue
            for measure in ("bits", "accuracy") if weight != "0" else ("accuracy",):
                factor = 100 if measure == "accuracy" else 1
                ours, theirs = (
                    [factor * value for value in values[f"{name}-{weight}"][measure]] for name in ("residual", block)
                )
                if ours and len(ours) == len(theirs):
                    grain = 100 / values[f"{block}-{weight}"]["rows"][0] if measure == "accuracy" else 0.0
                    differences[block, weight, measure] = Difference.of(ours, theirs, grain)
    return differences


def _comparison(values: Mapping[str, Mapping[str, list[float]]]) -> Table:
    rows = [
        [BLOCKS[block], _weight(weight), _NAMES[measure], str(gap), verdict(gap, _EXPECTED[measure])]
        for (block, weight, measure), gap in _differences(values).items()
    ]
    caption = (
        "Residual minus the other block, paired by seed, with Student's 95 % confidence interval; that of accuracies "
        "includes their rounding to whole images."
    )
    return Table(["other block", "λ", "measure", "difference", "sign of the paper"], rows, caption)


def _weight(label: str) -> str:
    return label.replace("_d", "/D").replace(LONG, ", four times the steps")


def _findings(values: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    differences = _differences(values)
    lines = []
    for weight in (f"1_d{LONG}", "1_d"):
        for measure, what in (("bits", "bits/dim"), ("accuracy", "per cent of accuracy")):
            gap = differences.get(("coupling", weight, measure))
            if gap is not None:
                judged = verdict(gap, _EXPECTED[measure])
                lines.append(f"With λ = {_weight(weight)}, residual blocks minus couplings is {gap} {what}: {judged}.")
    verdicts = [verdict(gap, _EXPECTED[measure]) for (_, _, measure), gap in differences.items()]
    if not verdicts:
        return ["No comparison is possible, since runs failed."]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    return [*lines, f"Of {len(verdicts)} comparisons of residual blocks with couplings, {counts}."]


_ABSTRACT = Claim(
    "Residual Flows are better than networks of coupling blocks at joint generative and discriminative modelling",
    "abstract",
)


def _full(name: str) -> dict[str, Recipe]:
    return recipes(name, {}, {})


TABLE_4 = Experiment(
    about="hybrid models: residual and coupling blocks (MNIST)",
    claims=(_ABSTRACT,),
    reduced=Setting(
        "The digits of scikit-learn in place of MNIST; 2-2 blocks of 32 channels without dense blocks, branches of "
        "64 features; 400 steps of Adam with a cosine schedule, and for λ = 1/D also 1,600; initial learning rate "
        "0.02 for residual blocks and 0.01 for couplings.",
        "hybrid-digits",
        small_digits,
        seeds=3,
    ),
    full=Setting(
        "MNIST: 16-16-16 blocks of 512, branches of 256 features. For SVHN, the other half of the "
        "table, replace the recipe by `svhn_hybrid_paper`.",
        "hybrid-mnist",
        partial(_full, "mnist_hybrid_paper"),
    ),
    run=run,
    published=(TABLE_4_MNIST, TABLE_4_SVHN),
)

TABLE_5 = Experiment(
    about="hybrid models: residual and coupling blocks (CIFAR-10)",
    claims=(_ABSTRACT,),
    reduced=Setting(
        "CIFAR-10; 1-1-1 blocks of 32 channels without dense blocks, branches of 64 features; 300 steps of Adam with "
        "an initial learning rate of 0.01 and a cosine schedule, and for λ = 1/D also 1,200; 500 test images.",
        "hybrid-cifar10",
        small_cifar10,
        seeds=2,
    ),
    full=Setting(
        "16-16-16 blocks of 512, branches of 256 features; images are standardised, flipped and cropped.",
        "hybrid-cifar10",
        partial(_full, "cifar10_hybrid_paper"),
    ),
    run=run,
    published=(PUBLISHED_5,),
)
