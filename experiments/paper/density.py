"""Table 1: bits per dimension of Residual Flows and of the flows they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from contraflow.evaluation import scores_picture
from contraflow.files import replacing
from contraflow.runs import RECIPES, Recipe, with_architecture
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.paired import Difference, verdict, with_error
from experiments.paper.plan import Plan, Run, scores, total_seconds
from experiments.paper.setting import Setting

_OURS = "residual_flow_digits"
#: Architecture → the paper's row.
_ROWS = {"real_nvp": "Real NVP", "glow": "Glow", "iresnet": "i-ResNet", _OURS: "Residual Flow"}
_PAPER = {
    "real_nvp": ("1.06", "3.49", "4.28", "3.98"),
    "glow": ("1.05", "3.35", "4.09", "3.81"),
    "iresnet": ("1.06", "3.45", "–", "–"),
    _OURS: ("0.97", "3.28", "4.01", "3.76"),
}


def run(plan: Plan) -> Result:
    """Every flow of the setting on its data."""
    runs = plan.runs()
    if plan.budget == "full":
        return _full_result(runs)
    values = {name: scores(runs[name]) for name in _ROWS}
    picture = plan.picture()
    with replacing(picture) as temporary:
        scores_picture({_ROWS[name]: one for name, one in values.items()}, "bits/dim", temporary, title="8×8 digits")
    rows = [(text, with_error(values[name]), _data_error(runs[name]), *_PAPER[name]) for name, text in _ROWS.items()]
    head = ("flow", "ours: digits", "error over images")
    paper = tuple(f"paper: {data}" for data in ("MNIST", "CIFAR-10", "ImageNet 32", "ImageNet 64"))
    caption = (
        "Bits/dim. Ours: mean over seeds ± its standard error; scored with 20 exact terms and roulette, whatever the "
        "flow was trained on. The paper's data are other data: only the order of the rows compares."
    )
    return Result(
        tables=(Table((*head, *paper), rows, caption),),
        findings=_findings(values),
        pictures=(Picture(picture.name, "A point a seed; the mean with its standard error."),),
        values=values,
        training_seconds=total_seconds(runs),
    )


def _full_result(runs: Mapping[str, Sequence[Run]]) -> Result:
    values = {name: scores(group) for name, group in runs.items()}
    rows = [(name, with_error(one), _data_error(runs[name])) for name, one in values.items()]
    table = Table(("recipe", "bits/dim", "error over images"), rows)
    finding = "; ".join(f"{name} {with_error(one)} bits/dim" for name, one in values.items())
    return Result((table,), (f"{finding}.",), values=values, training_seconds=total_seconds(runs))


def _data_error(runs: Sequence[Run]) -> str:
    errors = [one.standard_error for one in runs if one.standard_error is not None]
    return f"{sum(errors) / len(errors):.3f}" if errors else "–"


def _findings(values: Mapping[str, Sequence[float]]) -> list[str]:
    """The Residual Flow less each of the others, paired by seed."""
    lines = []
    for name, text in _ROWS.items():
        if name != _OURS and len(values[name]) == len(values[_OURS]):
            found = Difference.of(values[_OURS], values[name])
            lines.append(f"Residual Flow less {text}: {found} bits/dim, {verdict(found, expected=-1)}.")
    return lines or ["No flow finished on every seed."]


def _digits(name: str) -> Recipe:
    recipe = with_architecture(RECIPES["digits"](), name)
    recipe.evaluation.samples = 1
    return recipe


def _reduced() -> dict[str, Recipe]:
    return {name: _digits(name) for name in _ROWS}


def _full() -> dict[str, Recipe]:
    """Appendix E's five rows."""
    names = ("mnist_paper", "cifar10_paper", "imagenet32_paper", "imagenet64_paper", "celebahq256_paper")
    return {name: RECIPES[name]() for name in names}


#: What makes a setting's recipes.
Recipes = Callable[[], dict[str, Recipe]]

TABLE_1 = Experiment(
    about="bits per dimension beside other flows",
    claims=(
        Claim(
            "On MNIST, CIFAR-10, ImageNet 32 and 64 Residual Flows reach 0.97, 3.28, 4.01 and 3.76 bits/dim, below "
            "Real NVP, Glow and i-ResNet (the table below has their figures)",
            "Table 1",
            "as quoted in arXiv:1908.09257, Table 5; CIFAR-10 also in arXiv:2011.13456",
        ),
        Claim(
            "Scored with 20 terms and the rest by the unbiased estimate, whose standard deviation is then negligible",
            "section 5.1",
            "its text",
        ),
    ),
    reduced=Setting(
        "8×8 digits, every flow at the settings of `contraflow architectures` and its own learning rate. FFJORD and "
        "Flow++ are left out: a minute does not train the one, and the other is not in the library.",
        "density",
        _reduced,
        seeds=3,
        seconds=60,
    ),
    full=Setting(
        "Appendix E. `contraflow data check imagenet32` (imagenet64, celebahq256) says where the files are looked for.",
        "density",
        _full,
    ),
    run=run,
)
