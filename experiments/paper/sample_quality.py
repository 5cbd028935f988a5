"""Table 2: quality of samples, FID and KID."""

from __future__ import annotations

import statistics

from contraflow.evaluation import ImageFeatures, QualityReport, efficientnet_features
from contraflow.runs import RECIPES, Recipe, load_run
from contraflow.runs.quality import judge_samples
from experiments.paper.ablation import I_RESNET
from experiments.paper.digits_flows import FAMILY, chosen, iresnet, residual_flow
from experiments.paper.experiment import Claim, Experiment, Result, Table
from experiments.paper.plan import FinishedRun, Plan, total_seconds
from experiments.paper.published import TABLE_2 as PUBLISHED
from experiments.paper.setting import Setting

_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
_AT_ONE = "samples at T = 1"


def run(plan: Plan) -> Result:
    """FID and KID for each flow, seed and temperature, and of test images."""
    features = efficientnet_features()
    runs = plan.runs()
    reports_of = {label: [_judge(run, features, plan) for run in group] for label, group in runs.items()}
    first = next(iter(reports_of.values()))[0][0]
    head = ("flow", "seed", "images", f"FID on {first.features} features", "KID, × 1000")
    rows = [
        (label, str(seed), row.name, str(row.fid), f"{1000 * row.kid.value:.1f} ± {1000 * row.kid.standard_error:.1f}")
        for label, seeds in reports_of.items()
        for seed, reports in enumerate(seeds)
        for row in reports
    ]
    return Result(
        tables=(Table(head, rows, f"{first.images} images of each kind against {first.reference} training images."),),
        findings=[_ordering(reports_of), _temperature(reports_of)],
        values={
            label: [[row.as_dict() for row in reports] for reports in seeds] for label, seeds in reports_of.items()
        },
        training_seconds=total_seconds(runs),
    )


def _judge(run: FinishedRun, features: ImageFeatures, plan: Plan) -> list[QualityReport]:
    trained = load_run(run.folder)
    trained.recipe.data.root = plan.root
    with plan.watch(f"{plan.name}: {run.folder.parent.name}, seed {run.seed}") as watcher:
        return judge_samples(trained, features, _TEMPERATURES, samples=10_000, seed=run.seed, watcher=watcher)


def _ordering(reports_of: dict[str, list[list[QualityReport]]]) -> str:
    """KID, which unlike FID is unbiased, of samples at temperature one; the best flow first."""
    best_first = sorted(reports_of, key=lambda label: _mean(reports_of[label], _AT_ONE))
    text = ", ".join(f"{label} {_kid(reports_of[label], _AT_ONE)}" for label in best_first)
    test = next(iter(reports_of.values()))
    return f"KID × 1000 of samples at T = 1: {text}; of test images {_kid(test, 'test images')}."


def _temperature(reports_of: dict[str, list[list[QualityReport]]]) -> str:
    """The temperature with the lowest KID for each flow."""
    best = {
        label: min(_TEMPERATURES, key=lambda temperature: _mean(seeds, f"samples at T = {temperature:g}"))
        for label, seeds in reports_of.items()
    }
    return "Temperature with the lowest KID: " + ", ".join(f"{label} {value:g}" for label, value in best.items()) + "."


def _of(seeds: list[list[QualityReport]], name: str) -> list[QualityReport]:
    return [report for reports in seeds for report in reports if report.name == name]


def _mean(seeds: list[list[QualityReport]], name: str) -> float:
    return statistics.mean(report.kid.value for report in _of(seeds, name))


def _kid(seeds: list[list[QualityReport]], name: str) -> str:
    """Mean over seeds, and the standard error of this mean from the jackknife errors over images."""
    errors = [report.kid.standard_error for report in _of(seeds, name)]
    error = sum(error**2 for error in errors) ** 0.5 / len(errors)
    return f"{1000 * _mean(seeds, name):.1f} ± {1000 * error:.1f}"


def _cifar10() -> dict[str, Recipe]:
    make = RECIPES["cifar10_paper"]
    return {"residual_flow": make(), "iresnet": I_RESNET.recipe(make())}


TABLE_2 = Experiment(
    about="quality of samples, FID and KID",
    claims=(Claim("On CIFAR-10 the FID of a Residual Flow is lower than those of i-ResNets and Glow", "Table 2"),),
    reduced=Setting(
        "The recipe `digits` as a Residual Flow, and as an i-ResNet: the same network with ELU and c = 0.9, trained "
        "on five biased terms. Distances are computed with features of EfficientNet-Lite0, since no package has the "
        "Inception weights of published FIDs, so they are not comparable with published FIDs. FID has an upward bias "
        "for so few images; KID is unbiased.",
        FAMILY,
        chosen(residual_flow, iresnet),
    ),
    full=Setting(
        "CIFAR-10, 16-16-16 blocks of 512, for a GPU. `contraflow quality RUN --samples 10000 --features "
        "pt_inception-2015-12-05-6726825d.pth` computes the published FID.",
        "cifar10",
        _cifar10,
    ),
    run=run,
    published=(PUBLISHED,),
)
