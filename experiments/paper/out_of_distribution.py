"""Out-of-distribution detection, a use that the paper names."""

from __future__ import annotations

from contraflow.data import DATASETS, DRAWN_IMAGES
from contraflow.data.registry import check
from contraflow.evaluation import DetectionReport, scores_histograms
from contraflow.evaluation.detection_report import COLUMNS
from contraflow.files import replacing
from contraflow.runs import RECIPES, Recipe, load_run
from contraflow.runs.ood import Comparison, compare_with_others
from experiments.paper.digits_flows import FAMILY, background, chosen, residual_flow
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_OTHERS = ("mnist", "fashion_mnist", "svhn")
_CAPTION = "AUROC: 1 is perfect, 0.5 chance; below it, other data look more like the flow's own."


def run(plan: Plan) -> Result:
    """Every score against every other set that is there."""
    runs = plan.runs()
    own, other = (many[0] for many in runs.values())
    trained, perturbed = load_run(own.folder), load_run(other.folder)
    trained.recipe.data.root = plan.root
    with plan.watch(plan.name) as watcher:
        found = compare_with_others(
            trained, others(trained.recipe.data.name, plan.root), background=perturbed, limit=300, watcher=watcher
        )
    with replacing(plan.picture()) as temporary:
        scores_histograms(found.report, temporary)
    return Result(
        tables=(Table(COLUMNS, found.report.rows(), _CAPTION), _sets(found)),
        findings=_findings(found.report),
        pictures=(Picture(plan.picture().name, "Each score on every set; further right, further outside."),),
        values=found.as_dict(),
        training_seconds=own.training_seconds + other.training_seconds,
    )


def others(own: str, root: str | None) -> list[str]:
    """The other image sets whose files are there, and drawn images.

    >>> others("mnist", "nowhere")
    ['digits', 'noise', 'constant', 'black']
    """
    named = [name for name in ("digits", *_OTHERS) if name != own and _present(name, root)]
    return [*named, *DRAWN_IMAGES]


def _present(name: str, root: str | None) -> bool:
    return not DATASETS[name].forms or any(not status.startswith("absent") for _, status in check(name, root))


def _sets(found: Comparison) -> Table:
    tests = list(found.report.rejected[found.report.inside])
    rows = [
        (
            one.name,
            str(len(one.rows)),
            "{:.1f} ± {:.1f}".format(*found.report.log_prob[one.name]),
            *(f"{found.report.rejected[one.name][test]:.0%}" for test in tests),
            one.change or "–",
        )
        for one in found.sets
    ]
    head = ("set", "rows", "log p(x) in nats", *(f"rejected at 5 %: {test}" for test in tests), "what was done to it")
    return Table(head, rows, "The sets, the flow's own first; of that, rejected batches are false alarms.")


def _findings(report: DetectionReport) -> list[str]:
    """Where likelihood fails, and what then works."""
    worst = min(report.detections, key=lambda name: report.detections[name]["log p(x)"].auroc)
    row = report.detections[worst]
    best = max((score for score in row if score != "log p(x)"), key=lambda score: row[score].auroc)
    scores = list(row)
    lowest = {score: min(one[score].auroc for one in report.detections.values()) for score in scores}
    return [
        f"log p(x) alone does worst against {worst}: AUROC {row['log p(x)'].auroc:.3f}; there {best} has "
        f"{row[best].auroc:.3f}.",
        "The lowest AUROC over all sets: " + ", ".join(f"{score} {one:.3f}" for score, one in lowest.items()) + ".",
    ]


def _mnist_background() -> Recipe:
    recipe = RECIPES["mnist_paper"]()
    recipe.preprocessing.mutate = 0.1
    return recipe


OUT_OF_DISTRIBUTION = Experiment(
    about="out-of-distribution detection",
    claims=(
        Claim(
            "Log p(x) of a flow may tell other data from its own, and may fail: deep generative models find some other "
            "data likelier than their own (E. Nalisnick et al. 2019, arXiv:1810.09136)",
            "not in the paper: a use of log p(x)",
            "the abstract of arXiv:1810.09136",
        ),
    ),
    reduced=Setting(
        "The recipe `digits`, and a background flow: the same, for 500 steps, on images with a tenth of the pixels "
        "replaced. At most 300 test images of every set; other images are brought to 8×8 and 17 "
        "levels.",
        FAMILY,
        chosen(residual_flow, background),
    ),
    full=Setting(
        "MNIST as in the paper, for a GPU, with a background flow.",
        "mnist",
        lambda: {"mnist": RECIPES["mnist_paper"](), "background": _mnist_background()},
    ),
    run=run,
)
