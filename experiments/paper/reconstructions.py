"""The lecture's picture of reconstructions: an i-ResNet, and the same network without the Lipschitz bound."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.architectures import HybridFlow
from contraflow.data import Dataset, load_dataset
from contraflow.evaluation import image_grid
from contraflow.evaluation.figures import save_png
from contraflow.lipschitz import LipschitzLayer, update_lipschitz
from contraflow.logdet.estimators import count
from contraflow.numerics import FixedPoint, Picard
from contraflow.numerics.fixed_point import RowMap
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs import RECIPES
from contraflow.runs.build import build_flow, make_preprocessing
from experiments.paper.experiment import Claim, Experiment, Picture, Result, Table
from experiments.paper.hybrids import SMALL
from experiments.paper.paired import with_error
from experiments.paper.plan import Plan
from experiments.paper.setting import Setting

#: Name → c of each layer.
_BOUNDS = {"i-ResNet, c = 0.9": 0.9, "the same network without the bound": math.inf}
_STEPS, _BATCH, _LEARNING_RATE = 400, 64, 0.01
_ITERATIONS = (1, 2, 5, 10, 20)
_IMAGES, _SHOWN = 180, 12


@dataclass(frozen=True)
class FixedIterations(Picard):
    """`max_iterations` steps x ← T(x), without a test of convergence.

    >>> FixedIterations(max_iterations=2).solve(lambda x, rows: 2 * x + 1, torch.zeros(1, 1)).value.item()
    3.0
    """

    def solve(self, function: RowMap, start: Tensor, order: float = 2.0, contraction: float = 1.0) -> FixedPoint:
        """Iterate all samples, and declare them converged."""
        rows, x = torch.arange(len(start)), start
        for _ in range(self.max_iterations):
            x = function(x, rows)
        residual = (function(x, rows) - x).flatten(1).norm(order, dim=1)
        return FixedPoint(x, torch.full_like(rows, self.max_iterations), residual, rows >= 0, order)


def classifier(bound: float, data: Dataset, seed: int) -> HybridFlow:
    """A residual network trained to classify the digits; its log-determinant is not used."""
    recipe = RECIPES["digits_hybrid"]()
    recipe.seed = seed
    recipe.architecture.options = {**SMALL, "block": "residual", "activation": "elu", "bound": min(bound, 1.0)}
    flow = build_flow(recipe, data.event_shape, make_preprocessing(recipe, data))
    assert isinstance(flow, HybridFlow)
    assert data.train_labels is not None
    for module in flow.modules():
        if isinstance(module, LipschitzLayer):
            module.bound = bound
    generator = Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(flow.parameters(), lr=_LEARNING_RATE)
    for _ in range(_STEPS):
        rows = torch.randint(len(data.train), (_BATCH,), generator=generator)
        update_lipschitz(flow)
        logits = flow.class_logits(data.train[rows], generator=generator)
        loss = torch.nn.functional.cross_entropy(logits, data.train_labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    update_lipschitz(flow)
    return flow.eval()


@torch.no_grad()
def reconstruct(flow: HybridFlow, x: Tensor, iterations: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images and their reconstructions, ``(n, C, H, W)``, as real-valued levels; grey where they are not finite."""
    y = flow.preprocessing.forward(x, generator=generator).to(flow.dtype)
    inverse = flow.with_inverse(FixedIterations(max_iterations=iterations)).bijection.inverse
    largest = torch.finfo(flow.dtype).max
    back = torch.nan_to_num(inverse(flow.bijection(y)), nan=0.0, posinf=largest, neginf=-largest)
    return flow.preprocessing.inverse(y), flow.preprocessing.inverse(back)


def run(plan: Plan) -> Result:
    """Train both networks for each seed, and reconstruct test images with a growing number of iterations."""
    data = load_dataset("digits", root=plan.root)
    assert data.test_labels is not None
    x = data.test[:_IMAGES]
    errors: dict[str, list[list[float]]] = {name: [] for name in _BOUNDS}
    accuracy: dict[str, list[float]] = {name: [] for name in _BOUNDS}
    lipschitz: dict[str, list[float]] = {name: [] for name in _BOUNDS}
    strips: list[Tensor] = []
    start = time.perf_counter()
    for seed in range(plan.seeds):
        for name, bound in _BOUNDS.items():
            flow = classifier(bound, data, seed)
            guesses = flow.class_logits(x, generator=Generator().manual_seed(seed)).argmax(dim=1)
            accuracy[name].append((guesses == data.test_labels[: len(x)]).double().mean().item())
            lipschitz[name].append(max(block.bound for block in flow.certify().blocks))
            of_seed = []
            for iterations in _ITERATIONS:
                original, back = reconstruct(flow, x, iterations, Generator().manual_seed(seed))
                of_seed.append((back - original).square().mean().sqrt().item())
            errors[name].append(of_seed)
            if seed == 0:
                shown = [original, back] if not strips else [back]
                strips += [flow.preprocessing.quantise(images[:_SHOWN]) for images in shown]
    picture = plan.picture()
    preprocessing = flow.preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    save_png(image_grid(torch.cat(strips), preprocessing.reduced_levels, columns=_SHOWN), picture, scale=4)
    rows = [
        (
            name,
            with_error([100 * share for share in accuracy[name]], 1),
            with_error(lipschitz[name], 2),
            *(with_error([of_seed[place] for of_seed in errors[name]]) for place in range(len(_ITERATIONS))),
        )
        for name in _BOUNDS
    ]
    head = (
        "network",
        "accuracy, per cent",
        "largest bound L of a block",
        *(count(n, "iteration") for n in _ITERATIONS),
    )
    bounded, unbounded = ([of_seed[-1] for of_seed in errors[name]] for name in _BOUNDS)
    return Result(
        tables=(
            Table(
                head,
                rows,
                f"Root mean square error of the reconstruction of {len(x)} test images, in levels of "
                f"{preprocessing.reduced_levels}; mean ± standard error over seeds.",
            ),
        ),
        findings=(
            f"After {_ITERATIONS[-1]} iterations the reconstruction error is {with_error(bounded)} levels with the "
            f"bound and {with_error(unbounded)} without it.",
        ),
        pictures=(
            Picture(
                picture.name,
                f"Test images, and their reconstructions after {_ITERATIONS[-1]} iterations: with the bound (second "
                "row) and without it (third row); seed 0.",
            ),
        ),
        values={"errors": errors, "accuracy": accuracy, "lipschitz": lipschitz},
        training_seconds=time.perf_counter() - start,
    )


_SETTING = Setting(
    "8×8 digits: 2 + 2 residual blocks of 32 channels with ELU, trained as a classifier for "
    f"{_STEPS} steps, once with c = 0.9 for each layer and once without normalisation of the weights. The inverse of a "
    "block is the iteration x ← z - g(x).",
    seeds=3,
)

RECONSTRUCTIONS = Experiment(
    about="reconstructions with and without the Lipschitz bound",
    claims=(
        Claim(
            "Fixed-point iteration reconstructs the inputs of an i-ResNet, but not those of the same network without "
            "the Lipschitz bound",
            "lecture; Behrmann et al. 2019, arXiv:1811.00995",
        ),
    ),
    reduced=_SETTING,
    full=_SETTING,
    run=run,
)
