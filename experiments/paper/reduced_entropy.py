"""Figure 7: samples of reduced entropy, compared with modes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator

from contraflow.data import draw_rows
from contraflow.evaluation import image_grid
from contraflow.evaluation.figures import save_png
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
    """Samples at several temperatures, and modes, of the flow of each seed."""
    ((_, runs),) = plan.runs().items()
    reports = [_report(one.folder, one.seed, plan) for one in runs]
    first = reports[0]
    preprocessing = runs[0].flow().preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    images = torch.cat([points[:_SHOWN] for points in first.points.values()])
    grid = image_grid(images, preprocessing.reduced_levels, columns=_SHOWN)
    save_png(grid, plan.picture(), scale=max(1, 32 // images.shape[3]))
    entropy_picture(first, plan.picture("-log-prob"))
    return Result(
        tables=[
            Table(COLUMNS, report.rows(), f"Seed {seed}; ± is the standard error over {_ROWS} images.")
            for seed, report in enumerate(reports)
        ],
        findings=_findings(reports),
        pictures=(
            Picture(plan.picture().name, f"Rows of ten images, seed 0, from top to bottom: {', '.join(first.points)}."),
            Picture(plan.picture("-log-prob").name, "log p(x) of single images (blue) and their mean (black), seed 0."),
        ),
        values={f"seed {seed}": report.as_dict() for seed, report in enumerate(reports)},
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
    """The effect of the temperature on log p(x), and the gap between samples and modes."""

    def means(name: str) -> list[float]:
        return [report.log_prob[name].mean().item() for report in reports]

    highest = [max(values.mean().item() for values in _samples(report).values()) for report in reports]
    gaps = [mode - sample for mode, sample in zip(means(f"modes above {_LARGEST}"), highest, strict=True)]
    share = sum(
        (_highest_sample(report) < report.log_prob[f"modes above {_LARGEST}"]).double().mean().item()
        for report in reports
    )
    return [
        f"The mean log p(x) of samples is {with_error(means(_LARGEST), 1)} nats at T = 1 and "
        f"{with_error(means('samples at T = 0'), 1)} at T = 0. Modes that ascent in x reaches from samples have "
        f"{with_error(means(f'modes above {_LARGEST}'), 1)} nats, {with_error(gaps, 1)} more than the samples at the "
        "temperature with the highest mean.",
        f"{share / len(reports):.0%} of these modes have a higher log p(x) than all samples at all temperatures; "
        "f⁻¹(0), the limit of low temperature, is not the mode.",
        f"The mean log p(x) of test images is {with_error(means('data'), 1)} nats, and of the modes that ascent "
        f"reaches from them {with_error(means('modes above data'), 1)}.",
    ]


def _samples(report: EntropyReport) -> dict[str, torch.Tensor]:
    return {name: values for name, values in report.log_prob.items() if name.startswith("samples")}


def _highest_sample(report: EntropyReport) -> float:
    return max(values.max().item() for values in _samples(report).values())


FIGURE_7 = Experiment(
    about="samples of reduced entropy",
    claims=(
        Claim(
            "CelebA-HQ 256: with a smaller temperature hair and background turn black, so samples do not tend to the "
            "mode",
            "Figure 7",
        ),
        Claim(
            "A lower entropy of the base equals annealing p(x) only if the log-determinant does not depend on the "
            "sample",
            "Figure 7",
        ),
    ),
    reduced=Setting(
        f"The recipe `digits`; {_ROWS} samples at each temperature from the same latent noise. Modes are found by "
        f"{_STEPS} steps of Adam in x, within the range of pixels, from samples and from test images. Values with 20 "
        "exact terms, averaged over 4 draws.",
        FAMILY,
        chosen(residual_flow),
    ),
    full=Setting(
        "CelebA-HQ 256, 5 bits, for a GPU.", "celebahq256", lambda: {"celebahq256": RECIPES["celebahq256_paper"]()}
    ),
    run=run,
)
