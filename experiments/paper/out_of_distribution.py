"""Out-of-distribution detection with the flows of digits."""

from __future__ import annotations

from contraflow.data import DATASETS, DRAWN_IMAGES
from contraflow.data.registry import check
from contraflow.evaluation import DetectionReport, scores_histograms
from contraflow.evaluation.detection_report import COLUMNS
from contraflow.runs import RECIPES, Recipe, load_run
from contraflow.runs.ood import Detection, compare_with_others
from experiments.paper.digits_flows import FAMILY, background, chosen, residual_flow
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_OTHERS = ("mnist", "fashion_mnist", "svhn")
_CAPTION = "An AUROC of 1 is perfect and 0.5 is chance; below 0.5 the score ranks other data as more typical."


def run(plan: Plan) -> Result:
    """All scores on all other data sets whose files are present."""
    runs = plan.runs()
    own, other = (many[0] for many in runs.values())
    trained, perturbed = load_run(own.folder), load_run(other.folder)
    trained.recipe.data.root = plan.root
    with plan.watch(plan.name) as watcher:
        comparison = compare_with_others(
            trained, others(trained.recipe.data.name, plan.root), background=perturbed, limit=300, watcher=watcher
        )
    scores_histograms(comparison.report, plan.picture())
    return Result(
        tables=(Table(COLUMNS, comparison.report.rows(), _CAPTION), _sets(comparison)),
        findings=_findings(comparison.report),
        pictures=(
            Picture(
                plan.picture().name,
                "Histograms of each score on each data set; larger scores are more out of distribution.",
            ),
        ),
        values=comparison.as_dict(),
        training_seconds=own.training_seconds + other.training_seconds,
    )


def others(own: str, root: str | None) -> list[str]:
    """The other image sets whose files are present, and synthetic images.

    >>> others("mnist", "nowhere")
    ['digits', 'noise', 'constant', 'black']
    """
    named = [name for name in ("digits", *_OTHERS) if name != own and _present(name, root)]
    return [*named, *DRAWN_IMAGES]


def _present(name: str, root: str | None) -> bool:
    return not DATASETS[name].forms or any(not status.startswith("absent") for _, status in check(name, root))


def _sets(comparison: Detection) -> Table:
    tests = list(comparison.report.rejected[comparison.report.inside])
    rows = [
        (
            data.name,
            str(len(data.rows)),
            "{:.1f} ± {:.1f}".format(*comparison.report.log_prob[data.name]),
            *(f"{comparison.report.rejected[data.name][test]:.0%}" for test in tests),
            data.change or "–",
        )
        for data in comparison.sets
    ]
    head = ("data", "rows", "log p(x) in nats", *(f"rejected at 5 %: {test}" for test in tests), "conversion")
    return Table(head, rows, "All data sets, the flow's own first; its rejected batches are false alarms.")


def _findings(report: DetectionReport) -> list[str]:
    """The data set on which likelihood is worst, the best score there, and the lowest AUROC of each score."""
    worst = min(report.detections, key=lambda name: report.detections[name]["log p(x)"].auroc)
    row = report.detections[worst]
    best = max((score for score in row if score != "log p(x)"), key=lambda score: row[score].auroc)
    scores = list(row)
    lowest = {score: min(of_set[score].auroc for of_set in report.detections.values()) for score in scores}
    return [
        f"The AUROC of log p(x) alone is lowest for {worst}, {row['log p(x)'].auroc:.3f}; that of {best} there is "
        f"{row[best].auroc:.3f}.",
        "Lowest AUROC over all data sets: "
        + ", ".join(f"{score} {auroc:.3f}" for score, auroc in lowest.items())
        + ".",
    ]


def _mnist_background() -> Recipe:
    recipe = RECIPES["mnist_paper"]()
    recipe.preprocessing.mutate = 0.1
    return recipe


OUT_OF_DISTRIBUTION = Experiment(
    about="out-of-distribution detection",
    claims=(
        Claim(
            "Deep generative models may assign other data a higher likelihood than their own data, so that log p(x) "
            "fails to detect them",
            "not in the paper; E. Nalisnick et al. 2019, arXiv:1810.09136",
        ),
    ),
    reduced=Setting(
        "The recipe `digits`, and a background flow: the same recipe with 500 steps, on images with a tenth of the "
        "pixels replaced. At most 300 test images of each data set; other images are converted to 8×8 pixels and 17 "
        "levels.",
        FAMILY,
        chosen(residual_flow, background),
    ),
    full=Setting(
        "The paper's MNIST flow, for a GPU, with a background flow.",
        "mnist",
        lambda: {"mnist": RECIPES["mnist_paper"](), "background": _mnist_background()},
    ),
    run=run,
)
