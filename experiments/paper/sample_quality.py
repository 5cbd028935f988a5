"""Table 2: how good samples are, by FID and KID."""

from __future__ import annotations

from collections.abc import Callable

from contraflow.evaluation import ImageFeatures, QualityReport, efficientnet_features
from contraflow.logdet import PowerSeries
from contraflow.runs import RECIPES, Recipe, load_run, with_architecture
from contraflow.runs.quality import judge_samples
from experiments.paper.digits_flows import FAMILY, chosen, iresnet, residual_flow
from experiments.paper.experiment import Claim, Experiment, Result, Table
from experiments.paper.plan import Plan, Run
from experiments.paper.setting import Setting

_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
_AT_ONE = "samples at T = 1"


def run(plan: Plan) -> Result:
    """Both distances for every flow, seed and temperature, beside those of test images."""
    features = efficientnet_features()
    runs = plan.runs()
    found = {label: [_judge(one, features, plan) for one in many] for label, many in runs.items()}
    first = next(iter(found.values()))[0][0]
    head = ("flow", "seed", "images", f"FID on {first.features} features", "KID, × 1000")
    rows = [
        (label, str(seed), one.name, str(one.fid), f"{1000 * one.kid.value:.1f} ± {1000 * one.kid.standard_error:.1f}")
        for label, many in found.items()
        for seed, reports in enumerate(many)
        for one in reports
    ]
    return Result(
        tables=(Table(head, rows, f"{first.images} images of each kind against {first.reference} training images."),),
        findings=[_ordering(found), _temperature(found)],
        values={label: [[one.as_dict() for one in reports] for reports in many] for label, many in found.items()},
        training_seconds=sum(one.training_seconds for many in runs.values() for one in many),
    )


def _judge(one: Run, features: ImageFeatures, plan: Plan) -> list[QualityReport]:
    trained = load_run(one.folder)
    trained.recipe.data.root = plan.root
    with plan.watch(f"{plan.name}: {one.folder.parent.name}, seed {one.seed}") as watcher:
        return judge_samples(trained, features, _TEMPERATURES, samples=10_000, seed=one.seed, watcher=watcher)


def _ordering(found: dict[str, list[list[QualityReport]]]) -> str:
    """KID of every flow's samples at temperature one, best first; it is the one without bias."""
    text = [
        f"{label} {_kid(many, _AT_ONE)}"
        for label, many in sorted(found.items(), key=lambda one: _mean(one[1], _AT_ONE))
    ]
    test = next(iter(found.values()))
    return f"KID × 1000 of samples at T = 1: {', '.join(text)}; of test images {_kid(test, 'test images')}."


def _temperature(found: dict[str, list[list[QualityReport]]]) -> str:
    """The temperature with the least KID, for every flow."""
    best = {
        label: min(_TEMPERATURES, key=lambda one: _mean(many, f"samples at T = {one:g}"))
        for label, many in found.items()
    }
    return "Temperature of the least KID: " + ", ".join(f"{label} {one:g}" for label, one in best.items()) + "."


def _of(many: list[list[QualityReport]], name: str) -> list[QualityReport]:
    return [one for reports in many for one in reports if one.name == name]


def _mean(many: list[list[QualityReport]], name: str) -> float:
    chosen_reports = _of(many, name)
    return sum(one.kid.value for one in chosen_reports) / len(chosen_reports)


def _kid(many: list[list[QualityReport]], name: str) -> str:
    """The mean over seeds; the error is the jackknife's, of images, divided by the root of the seeds."""
    errors = [one.kid.standard_error for one in _of(many, name)]
    error = sum(one**2 for one in errors) ** 0.5 / len(errors)
    return f"{1000 * _mean(many, name):.1f} ± {1000 * error:.1f}"


def _cifar10_iresnet() -> Recipe:
    recipe = with_architecture(RECIPES["cifar10_paper"](), "iresnet")
    recipe.estimator = PowerSeries()
    return recipe


def _cifar10() -> dict[str, Callable[[], Recipe]]:
    return {"residual_flow": RECIPES["cifar10_paper"], "iresnet": _cifar10_iresnet}


TABLE_2 = Experiment(
    about="quality of samples, FID and KID",
    claims=(
        Claim(
            "On CIFAR-10, samples of a Residual Flow have an FID of 46.37", "Table 2", "as quoted in arXiv:2011.13456"
        ),
        Claim("That is lower than the FID of an i-ResNet's samples", "Table 2"),
        Claim("Samples at a lower temperature are judged better", "Figure 7"),
    ),
    reduced=Setting(
        "The recipe `digits`, as a Residual Flow and as an i-ResNet (ELU, biased series of 5 terms), "
        "judged in the features of EfficientNet-Lite0, since the Inception weights of published FIDs come in no "
        "package. These figures compare flows on this page; they are not FIDs to set beside those of papers. FID is "
        "biased upwards by so few images; KID is not.",
        FAMILY,
        chosen(residual_flow, iresnet),
    ),
    full=Setting(
        "CIFAR-10 as in the paper, for a GPU; then `contraflow quality RUN --samples 10000 --features "
        "pt_inception-2015-12-05-6726825d.pth` gives published FID.",
        "cifar10",
        lambda: {label: make() for label, make in _cifar10().items()},
    ),
    run=run,
)
