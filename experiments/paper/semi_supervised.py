"""Semi-supervised learning: few labels and all rows, compared with the same network on labelled rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contraflow.evaluation.figures import logarithmic, png_figure
from contraflow.runs import Recipe
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.hybrids import SMALL, Weight, changed, scores
from experiments.paper.paired import Difference, mean_and_error, verdict, with_error
from experiments.paper.plan import Plan, total_seconds
from experiments.paper.setting import Setting

COUNTS = (10, 100, 1000)
#: Training data → λ.
KINDS: dict[str, Weight] = {"labels_alone": 0.0, "hybrid": "1/D"}
_NAMES = {"labels_alone": "the labelled rows alone (λ = 0)", "hybrid": "all rows (λ = 1/D)"}


def recipes(name: str, options: Mapping[str, object], training: Mapping[str, object]) -> dict[str, Recipe]:
    """A recipe for each number of labels, and for each kind of training data."""
    made = {}
    for count in COUNTS:
        for kind, weight in KINDS.items():
            made[f"{count}-{kind}"] = changed(name, options, weight, training)
            made[f"{count}-{kind}"].data.labels = count
    return made


def small_digits() -> dict[str, Recipe]:
    """The reduced setting."""
    # No validation, which would use additional labels.
    made = recipes(
        "digits_hybrid", {**SMALL, "block": "coupling"}, {"steps": 300, "warmup_steps": 30, "validate_every": 0}
    )
    for recipe in made.values():
        recipe.evaluation.draws, recipe.evaluation.samples = 1, 4
    return made


def run(plan: Plan) -> Result:
    """Accuracy for each number of labels, with and without the unlabelled rows."""
    runs_of = plan.runs()
    accuracy = {label: [100 * share for share in scores(runs, "accuracy")] for label, runs in runs_of.items()}
    grain = 100 / max(scores(runs_of[f"{COUNTS[0]}-hybrid"], "rows"))
    gains = {
        count: Difference.of(accuracy[f"{count}-hybrid"], accuracy[f"{count}-labels_alone"], grain) for count in COUNTS
    }
    rows = [
        [
            f"{count:,}",
            *(with_error(accuracy[f"{count}-{kind}"], 1) for kind in KINDS),
            f"{gains[count]} ({verdict(gains[count], 1.0)})",
            with_error(scores(runs_of[f"{count}-hybrid"], "bits")),
        ]
        for count in COUNTS
    ]
    caption = (
        "Test accuracy in per cent ± standard error over seeds; the gain is paired by seed, with Student's 95 % "
        "confidence interval. The seed also selects the labels that are kept."
    )
    head = ["labels", *_NAMES.values(), "gain", "bits/dim of all rows"]
    picture = plan.picture()
    accuracy_picture(accuracy, picture)
    first = gains[COUNTS[0]]
    return Result(
        tables=(Table(head, rows, caption),),
        findings=(
            f"With {COUNTS[0]} labels, unlabelled rows change the accuracy by {first} per cent: {verdict(first, 1.0)}.",
            *(f"With {count:,} labels: {gains[count]} per cent, {verdict(gains[count], 1.0)}." for count in COUNTS[1:]),
        ),
        pictures=(
            Picture(picture.name, "Accuracy against the number of labels; bars are standard errors over seeds."),
        ),
        values={"accuracy": accuracy},
        training_seconds=total_seconds(runs_of),
    )


def accuracy_picture(accuracy: Mapping[str, list[float]], path: Path) -> None:
    """Accuracy against the number of labels, one line for each kind of training data."""
    with png_figure(path, 5, 3.2, dpi=130) as figure:
        axes = figure.subplots()
        for kind, name in _NAMES.items():
            means, errors = zip(*(mean_and_error(accuracy[f"{count}-{kind}"]) for count in COUNTS), strict=True)
            axes.errorbar(COUNTS, means, yerr=[error or 0.0 for error in errors], marker="o", capsize=3, label=name)
        logarithmic(axes, "x", COUNTS)
        axes.set(xlabel="labels", ylabel="test accuracy, per cent")
        axes.legend()


SEMI_SUPERVISED = Experiment(
    about="hybrid models with few labels",
    claims=(
        Claim(
            "Hybrid models are generative models and classifiers, trained on a weighted likelihood. The paper has no "
            "experiment on semi-supervised learning",
            "section 1",
        ),
    ),
    reduced=Setting(
        "The digits of scikit-learn with labels of 10, 100 and 1,000 of 1,437 rows; 2-2 couplings of 32 channels, "
        "which are cheaper than residual blocks, branches of 64 features; 300 steps of Adam with an initial learning "
        "rate of 0.01 and a cosine schedule. No validation, which would use additional labels.",
        "semi-supervised-digits",
        small_digits,
        seeds=3,
    ),
    full=Setting(
        "MNIST with 10, 100 and 1,000 labels.",
        "semi-supervised-mnist",
        lambda: recipes("mnist_hybrid_paper", {}, {}),
    ),
    run=run,
)
