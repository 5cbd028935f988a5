"""Tables 4 and 5: hybrid models with residual blocks and with couplings."""

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
from experiments.paper.plan import Plan, Run, total_seconds
from experiments.paper.setting import Setting

Weight = float | Literal["1/D"]

BLOCKS = {"coupling": "coupling", "coupling_conv1x1": "coupling + 1×1 convolution", "residual": "residual"}
WEIGHTS: dict[str, Weight] = {"0": 0.0, "1_d": "1/D", "1": 1.0}
#: The sized-down flow of the reduced settings.
SMALL = {"blocks": [2, 2], "hidden": 32, "dense_blocks": 0, "branch_features": 64}
#: What the labels of longer runs end in.
LONG = "-long"


def changed(name: str, options: Mapping[str, Any], weight: Weight, training: Mapping[str, Any]) -> Recipe:
    """The recipe of a name with options of its architecture, a likelihood weight and settings of its training."""
    recipe = RECIPES[name]()
    recipe.architecture.options = dict(options)
    recipe.objective = Hybrid(weight)
    for key, value in training.items():
        setattr(recipe.training, key, value)
    return recipe


def recipes(name: str, options: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Recipe]:
    """A recipe for every block and weight, that of a name with changes."""
    return {
        f"{block}-{label}": changed(name, {**options, "block": block}, weight, training)
        for block in BLOCKS
        for label, weight in WEIGHTS.items()
    }


def with_longer(name: str, options: Mapping[str, Any], steps: int) -> dict[str, Recipe]:
    """A recipe for every block and weight, and at λ = 1/D another of four times the steps."""

    def of(steps: int) -> dict[str, Recipe]:
        return recipes(name, options, {"steps": steps, "warmup_steps": steps // 10, "validate_every": 0})

    longer = {f"{label}{LONG}": recipe for label, recipe in of(4 * steps).items() if label.endswith("-1_d")}
    return of(steps) | longer


def small_digits() -> dict[str, Recipe]:
    """The reduced setting."""
    found = with_longer("digits_hybrid", SMALL, 400)
    for recipe in found.values():
        residual = recipe.architecture.options["block"] == "residual"
        recipe.training.learning_rate = 2e-2 if residual else 1e-2
        recipe.evaluation.draws, recipe.evaluation.samples = 1, 4
    return found


def small_cifar10() -> dict[str, Recipe]:
    """The reduced setting."""
    found = with_longer("cifar10_hybrid", {**SMALL, "blocks": [1, 1, 1]}, 300)
    for recipe in found.values():
        recipe.evaluation.limit, recipe.evaluation.samples = 500, 4
    return found


def scores(runs: Sequence[Run], name: str) -> list[float]:
    """Bits per dimension, or an entry of the classification's score, of every run that did not fail."""
    reports = [
        json.loads((one.folder / "evaluation.json").read_text(encoding="utf-8")) for one in runs if not one.failure
    ]
    return [report["value"] if name == "bits" else report["classification"][name] for report in reports]


def run(plan: Plan) -> Result:
    """Accuracy and bits per dimension of every block at every weight."""
    found = plan.runs()
    head = [
        "blocks",
        "λ = 0: accuracy",
        *(f"λ = {w}: {what}" for w in ("1/D", "1") for what in ("bits/dim", "accuracy")),
    ]
    rows = [[name, *_cells(found, block)] for block, name in BLOCKS.items()]
    values = {
        label: {name: scores(runs, name) for name in ("bits", "accuracy", "cross_entropy", "calibration_error", "rows")}
        for label, runs in found.items()
    }
    seconds = total_seconds(found)
    caption = "Test accuracy in per cent and bits per dimension, ± standard error over seeds."
    suffix = LONG if f"residual-1_d{LONG}" in found else ""
    curves = {block: training_curve(found[f"{block}-1_d{suffix}"]) for block in BLOCKS}
    tables = [Table(head, rows, caption), _comparison(values), *_longer(values), *_on_the_way(curves)]
    return Result(tables, [*_findings(values), *_gap(curves)], (), values, seconds)


def training_curve(runs: Sequence[Run]) -> dict[int, float]:
    """Step at the end of each quarter → bits per dimension of the batches logged in its second half, mean over runs."""
    curves = []
    for one in runs:
        if not one.failure:
            lines = TrainingLog(one.folder).records()
            quarter = len(lines) // 4
            ends = [quarter * part for part in (1, 2, 3, 4)]
            parts = [lines[end - max(1, quarter // 2) : end] for end in ends]
            curves.append({part[-1]["step"]: statistics.mean(line["bits_per_dim"] for line in part) for part in parts})
    shared = sorted(set.intersection(*(set(one) for one in curves))) if curves else []
    return {step: statistics.mean(one[step] for one in curves) for step in shared}


def _longer(values: Mapping[str, Mapping[str, list[float]]]) -> list[Table]:
    rows = [
        [name, with_error(values[label]["bits"]), _percent(values[label]["accuracy"])]
        for block, name in BLOCKS.items()
        if (label := f"{block}-1_d{LONG}") in values
    ]
    head = ["blocks", "λ = 1/D: bits/dim", "λ = 1/D: accuracy"]
    return [Table(head, rows, "The same after four times the steps.")] if rows else []


def _on_the_way(curves: Mapping[str, Mapping[int, float]]) -> list[Table]:
    steps = [step for step in curves["residual"] if all(step in one for one in curves.values())]
    if not steps:
        return []
    rows = [[name, *(f"{curves[block][step]:.3f}" for step in steps)] for block, name in BLOCKS.items()]
    head = ["blocks", *(f"step {step}" for step in steps)]
    caption = (
        "Bits per dimension of the training batches on the way at λ = 1/D, over half a quarter of the steps up to the "
        "one that is named; mean over seeds."
    )
    return [Table(head, rows, caption)]


def _gap(curves: Mapping[str, Mapping[int, float]]) -> list[str]:
    ours, theirs = curves["residual"], curves["coupling"]
    gaps = {step: ours[step] - theirs[step] for step in ours if step in theirs}
    if len(gaps) < 2:
        return []
    first, last = min(gaps), max(gaps)
    return [
        f"At λ = 1/D residual blocks stand {gaps[first]:+.3f} bits/dim from couplings after {first} steps and "
        f"{gaps[last]:+.3f} after {last}, on training batches."
    ]


def _cells(found: Mapping[str, Sequence[Run]], block: str) -> list[str]:
    cells = [_percent(scores(found[f"{block}-0"], "accuracy"))]
    for weight in ("1_d", "1"):
        runs = found[f"{block}-{weight}"]
        cells += [with_error(scores(runs, "bits")), _percent(scores(runs, "accuracy"))]
    return cells


def _percent(values: Sequence[float]) -> str:
    return with_error([100 * one for one in values], 1)


#: Measure → the sign of residual minus coupling that the paper reports.
_EXPECTED = {"bits": -1.0, "accuracy": 1.0}
_NAMES = {"bits": "bits/dim", "accuracy": "accuracy, per cent"}


def _differences(values: Mapping[str, Mapping[str, list[float]]]) -> dict[tuple[str, str, str], Difference]:
    """(other block, weight, measure) → residual minus the other, paired by seed."""
    found = {}
    for block in ("coupling", "coupling_conv1x1"):
        for weight in (*WEIGHTS, f"1_d{LONG}"):
            if f"residual-{weight}" not in values:
                continue
            for measure in ("bits", "accuracy") if weight != "0" else ("accuracy",):
                factor = 100 if measure == "accuracy" else 1
                ours, theirs = (
                    [factor * one for one in values[f"{name}-{weight}"][measure]] for name in ("residual", block)
                )
                if ours and len(ours) == len(theirs):
                    grain = 100 / values[f"{block}-{weight}"]["rows"][0] if measure == "accuracy" else 0.0
                    found[block, weight, measure] = Difference.of(ours, theirs, grain)
    return found


def _comparison(values: Mapping[str, Mapping[str, list[float]]]) -> Table:
    rows = [
        [BLOCKS[block], _weight(weight), _NAMES[measure], str(one), verdict(one, _EXPECTED[measure])]
        for (block, weight, measure), one in _differences(values).items()
    ]
    caption = (
        "Residual minus the other, paired by seed, with Student's 95 % interval; that of accuracies allows for their "
        "coming in steps of one image."
    )
    return Table(["against", "λ", "measure", "difference", "the paper's sign"], rows, caption)


def _weight(label: str) -> str:
    return label.replace("_d", "/D").replace(LONG, ", four times the steps")


def _findings(values: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    found = _differences(values)
    lines = []
    for weight in (f"1_d{LONG}", "1_d"):
        for measure, what in (("bits", "bits/dim"), ("accuracy", "per cent of accuracy")):
            one = found.get(("coupling", weight, measure))
            if one is not None:
                judged = verdict(one, _EXPECTED[measure])
                lines.append(
                    f"At λ = {_weight(weight)}, residual blocks differ from couplings by {one} {what}: {judged}."
                )
    verdicts = [verdict(one, _EXPECTED[key[2]]) for key, one in found.items()]
    if not verdicts:
        return ["No comparison: runs failed."]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    return [*lines, f"Of {len(verdicts)} comparisons of residual blocks with couplings: {counts}."]


_ABSTRACT = Claim(
    "Residual Flows outperform networks with coupling blocks at joint generative and discriminative modelling",
    "abstract",
    "the abstract",
)


def _full(name: str) -> dict[str, Recipe]:
    return recipes(name, {}, {})


TABLE_4 = Experiment(
    about="hybrid models: residual blocks against couplings (MNIST)",
    claims=(
        _ABSTRACT,
        Claim(
            "MNIST. Coupling: 99.50 % at λ = 0; 1.18 bits/dim and 98.45 % at 1/D; 1.04 and 95.42 % at 1. With 1×1 "
            "convolutions: 99.56 %; 1.15 and 98.93 %; 1.03 and 94.22 %. Residual: 99.53 %; 1.01 and 99.46 %; 0.99 and "
            "98.69 %",
            "Table 4",
        ),
    ),
    reduced=Setting(
        "The digits of scikit-learn instead of MNIST; 2-2 blocks of 32 channels without dense ones, branches of 64 "
        "features; 400 steps of Adam along a cosine, and at λ = 1/D also 1,600, from 0.02 for residual blocks and 0.01 "
        "for couplings.",
        "hybrid-digits",
        small_digits,
        seeds=3,
    ),
    full=Setting(
        "16-16-16 blocks of 512, branches of 256 features.",
        "hybrid-mnist",
        partial(_full, "mnist_hybrid_paper"),
    ),
    run=run,
)

TABLE_5 = Experiment(
    about="hybrid models: residual blocks against couplings (CIFAR-10)",
    claims=(
        _ABSTRACT,
        Claim(
            "CIFAR-10. Coupling: 89.77 % at λ = 0; 4.30 bits/dim and 87.58 % at 1/D; 3.54 and 67.62 % at 1. With 1×1 "
            "convolutions: 90.82 %; 4.09 and 87.96 %; 3.47 and 67.38 %. Residual: 91.78 %; 3.62 and 90.47 %; 3.39 and "
            "70.32 %",
            "Table 5",
        ),
    ),
    reduced=Setting(
        "CIFAR-10; 1-1-1 blocks of 32 channels without dense ones, branches of 64 features; 300 steps of Adam at 0.01 "
        "along a cosine, and at λ = 1/D also 1,200; 500 test images.",
        "hybrid-cifar10",
        small_cifar10,
        seeds=2,
    ),
    full=Setting(
        "16-16-16 blocks of 512, branches of 256 features; standardised, flipped and cropped.",
        "hybrid-cifar10",
        partial(_full, "cifar10_hybrid_paper"),
    ),
    run=run,
)
