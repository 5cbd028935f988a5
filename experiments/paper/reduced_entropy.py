"""Figure 7: samples of reduced entropy, and whether they go to the mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator

from contraflow.data import draw_rows
from contraflow.evaluation import image_grid
from contraflow.evaluation.pictures import save_png
from contraflow.files import replacing
from contraflow.logdet import EVALUATION
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import RECIPES, load_run
from contraflow.runs.build import load_data
from experiments.paper.digits_flows import FAMILY, chosen, residual_flow
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.modes import COLUMNS, EntropyReport, entropy_picture, reduced_entropy
from experiments.paper.paired import with_error
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

_ROWS, _SHOWN, _STEPS = 20, 10, 150
_LARGEST = "samples at T = 1"


def run(plan: Plan) -> Result:
    """Temperatures against modes, for the flow of every seed."""
    ((_, runs),) = plan.runs().items()
    reports = [_report(one.folder, one.seed, plan) for one in runs]
    first = reports[0]
    preprocessing = runs[0].flow().preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    with replacing(plan.picture()) as temporary:
        images = torch.cat([points[:_SHOWN] for points in first.points.values()])
        grid = image_grid(images, preprocessing.reduced_levels, columns=_SHOWN)
        save_png(grid, temporary, scale=max(1, 32 // images.shape[3]))
    with replacing(plan.picture("-log-prob")) as temporary:
        entropy_picture(first, temporary)
    return Result(
        tables=[
            Table(COLUMNS, one.rows(), f"Seed {seed}; ± is the standard error over {_ROWS} images.")
            for seed, one in enumerate(reports)
        ],
        findings=_findings(reports),
        pictures=(
            Picture(plan.picture().name, f"Ten images a row, seed 0, from above: {', '.join(first.points)}."),
            Picture(plan.picture("-log-prob").name, "log p(x) of every image (blue) and its mean (black), seed 0."),
        ),
        values={f"seed {seed}": one.as_dict() for seed, one in enumerate(reports)},
        training_seconds=sum(one.training_seconds for one in runs),
    )


def _report(folder: Path, seed: int, plan: Plan) -> EntropyReport:
    trained = load_run(folder)
    trained.recipe.data.root = plan.root
    generator = Generator().manual_seed(seed)
    data = draw_rows(load_data(trained.recipe.data, seed).test, _ROWS, generator)
    climbing = replace(EVALUATION, exact_terms=4)
    with plan.watch(f"{plan.name}: seed {seed}") as watcher:
        return reduced_entropy(
            trained.flow, data, steps=_STEPS, climbing=climbing, generator=generator, progress=watcher.note
        )


def _findings(reports: list[EntropyReport]) -> list[str]:
    """What the temperature does, and how far below the modes its samples stay."""

    def means(name: str) -> list[float]:
        return [one.log_prob[name].mean().item() for one in reports]

    likeliest = [max(values.mean().item() for name, values in _samples(one).items()) for one in reports]
    gaps = [best - one for best, one in zip(means(f"modes above {_LARGEST}"), likeliest, strict=True)]
    share = sum(
        (_highest_sample(one) < one.log_prob[f"modes above {_LARGEST}"]).double().mean().item() for one in reports
    )
    return [
        f"From T = 1 to T = 0 the samples' mean log p(x) goes from {with_error(means(_LARGEST), 1)} to "
        f"{with_error(means('samples at T = 0'), 1)} nats; modes that ascent in x reaches from samples have "
        f"{with_error(means(f'modes above {_LARGEST}'), 1)}, which is {with_error(gaps, 1)} nats above the likeliest "
        "temperature.",
        f"{share / len(reports):.0%} of these modes are likelier than every sample at any temperature; f⁻¹(0), the "
        "limit of low temperature, is not the mode.",
        f"Test images have {with_error(means('data'), 1)} nats, and the modes above them "
        f"{with_error(means('modes above data'), 1)}.",
    ]


def _samples(report: EntropyReport) -> dict[str, torch.Tensor]:
    return {name: values for name, values in report.log_prob.items() if name.startswith("samples")}


def _highest_sample(report: EntropyReport) -> float:
    return max(values.max().item() for values in _samples(report).values())


FIGURE_7 = Experiment(
    about="samples of reduced entropy",
    claims=(
        Claim(
            "Scaling the base by a temperature below one makes samples likelier and less diverse, without collapsing "
            "them to the mode of p(x)",
            "Figure 7",
        ),
    ),
    reduced=Setting(
        f"The recipe `digits`; {_ROWS} samples at each temperature from the same latent noise, and "
        f"{_STEPS} steps of Adam in x, within the box of real pixels, from samples and from test images. Values with "
        "20 exact terms, the mean of 4 draws.",
        FAMILY,
        chosen(residual_flow),
    ),
    full=Setting("CIFAR-10 as in the paper, for a GPU.", "cifar10", lambda: {"cifar10": RECIPES["cifar10_paper"]()}),
    run=run,
)
