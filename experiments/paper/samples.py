"""Figures 5, 6 and 9 to 14: samples of the image flows that have been trained here."""

from __future__ import annotations

import json
from pathlib import Path

from contraflow.evaluation import image_grid
from contraflow.evaluation.figures import save_png
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import RECIPES, Recipe, load_run
from contraflow.runs.build import make_generator
from contraflow.runs.run import draw_samples
from experiments.paper.digits_flows import FAMILY, chosen, residual_flow
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.plan import Plan, total_seconds
from experiments.paper.setting import Setting

#: Data set → figures of the paper.
_FIGURES = {
    "celeba64": "5",
    "cifar10": "6 and 9",
    "mnist": "10",
    "imagenet32": "11",
    "imagenet64": "12",
    "celebahq256": "13 and 14",
}
_SAMPLES = 64


def best_runs(folder: Path) -> dict[str, tuple[Path, float]]:
    """Data set → the run with the lowest bits/dim below a folder, and its bits/dim; not runs on perturbed images."""
    best: dict[str, tuple[Path, float]] = {}
    for file in sorted(folder.rglob("evaluation.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        configs = sorted((file.parent / "checkpoints").glob("*/config.json"))
        if report.get("unit") != "bits/dim" or report["value"] is None or not configs:
            continue
        recipe = Recipe.from_dict(json.loads(configs[-1].read_text(encoding="utf-8"))["recipe"])
        name, value = recipe.data.name, float(report["value"])
        if not recipe.preprocessing.mutate and (name not in best or value < best[name][1]):
            best[name] = file.parent, value
    return best


def run(plan: Plan) -> Result:
    """Train the flows of the setting, and draw samples of the best run for each data set in the folder of runs."""
    runs = plan.runs()
    best = best_runs(plan.out / "runs")
    pictures = []
    for name, (folder, value) in best.items():
        trained = load_run(folder)
        preprocessing = trained.flow.preprocessing
        assert isinstance(preprocessing, ImagePreprocessing)
        with plan.watch(f"{plan.name}: {name}") as watcher:
            generator = make_generator(trained.flow.device, 0)
            batch_size = trained.recipe.evaluation.batch_size
            samples = draw_samples(trained.flow, _SAMPLES, batch_size, generator, watcher)
        picture = plan.picture(f"-{name}")
        scale = max(1, 32 // samples.shape[3])
        save_png(image_grid(samples, preprocessing.reduced_levels), picture, scale=scale)
        where = folder.relative_to(plan.out).as_posix()
        pictures.append(Picture(picture.name, f"{name}: {_SAMPLES} samples of {where}, {value:.3f} bits/dim."))
    rows = [
        (name, _FIGURES.get(name, "–"), f"{best[name][1]:.3f}" if name in best else "no run")
        for name in dict.fromkeys([*best, *_FIGURES])
    ]
    return Result(
        tables=(Table(("data", "figure of the paper", "bits/dim of the run here"), rows),),
        findings=(f"Samples at T = 1, not selected, of flows trained on {', '.join(best)}.",),
        pictures=pictures,
        values={name: {"run": folder.name, "bits_per_dim": value} for name, (folder, value) in best.items()},
        training_seconds=total_seconds(runs),
    )


def _paper() -> dict[str, Recipe]:
    names = (f"{name}_paper" for name in _FIGURES)
    return {name.removesuffix("_paper"): RECIPES[name]() for name in names if name in RECIPES}


SAMPLES = Experiment(
    about="samples of image flows",
    claims=(
        Claim("Samples of 5-bit CelebA 64, the best of five batches", "Figure 5"),
        Claim("CIFAR-10 samples beside those of PixelCNN and Flow++", "Figure 6"),
        Claim(
            "Samples of CIFAR-10 (9), MNIST (10), ImageNet 32 (11), ImageNet 64 (12) and 5-bit CelebA-HQ 256 (13, 14)",
            "Figures 9 to 14",
        ),
    ),
    reduced=Setting(
        "The recipe `digits`. In addition, the best run for each other data set below OUT/runs, such as those of "
        "`--budget full`.",
        FAMILY,
        chosen(residual_flow),
    ),
    full=Setting("The flows of Appendix E, for a GPU.", "samples", _paper),
    run=run,
)
