"""Tables 1 and 3, Figure 8 and Figures 15 to 18: the right runs are compared in the right direction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import experiments.paper.ablation as ablation
import experiments.paper.density as density
import experiments.paper.norms as norms
from contraflow.architectures.residual_flow import residual_flow_images
from contraflow.bijections import ResidualBlock
from contraflow.lipschitz import MixedNorms
from contraflow.runs import Recipe
from experiments.paper import EXPERIMENTS, FinishedRun, Plan, Result, Setting
from experiments.paper.curves import Curve
from experiments.paper.plan import scores, total_seconds

CELLS = (*ablation._TABLE, *ablation._FIGURE)


def runs(values: list[float | None], unit: str = "bits/dim") -> list[FinishedRun]:
    return [
        FinishedRun(Path("none"), seed, value, 0.02, unit, 180, 60.0, "" if value is not None else "TrainingError: nan")
        for seed, value in enumerate(values)
    ]


def test_the_cells_are_the_recipes_they_say() -> None:
    recipes = EXPERIMENTS["table3"].reduced.recipes() | EXPERIMENTS["fig8"].reduced.recipes()
    assert len(recipes) == len({cell.label for cell in CELLS}) == 10
    for cell in CELLS:
        recipe = recipes[cell.label]
        assert recipe.architecture.options["bound"] == cell.bound
        assert recipe.architecture.options["activation"] == cell.activation
        assert str(recipe.estimator).startswith("5 terms (biased)" if cell.biased else "2 exact terms")
    assert str(CELLS[0]) == "i-ResNet + ELU, c = 0.9"
    paper = EXPERIMENTS["table3"].full.recipes()
    assert len(paper) == 3 * len(ablation._TABLE)
    assert paper["mnist-unbiased-lipswish-0.98"].recipe == "mnist_paper"
    assert paper["cifar10-small-biased-elu-0.9"].architecture.options["squeeze_first"]
    assert "squeeze_first" not in paper["cifar10-biased-elu-0.9"].architecture.options


def test_rows_are_compared_as_the_paper_orders_them() -> None:
    i_resnet, wide, unbiased, ours = ablation._TABLE
    found = {i_resnet.label: runs([2.0, 2.1, 2.2]), unbiased.label: runs([1.9, 2.01, 2.1])}
    text, judged = ablation._compare(found, unbiased, i_resnet)
    assert judged == "reproduced"
    assert text.startswith("Residual Flow + ELU, c = 0.98 minus i-ResNet + ELU, c = 0.9: -0.097 ± ")
    assert ablation._compare(found, i_resnet, unbiased)[1] == "contradicted"
    found[wide.label] = runs([None, None, None])
    assert ablation._compare(found, unbiased, wide) == (
        "Residual Flow + ELU, c = 0.98 minus i-ResNet + ELU, c = 0.98: no seed finished in both.",
        "not resolved",
    )
    found[ours.label] = runs([None, 2.0, 2.05])
    assert "-0.030" in ablation._compare(found, ours, unbiased)[0], "paired by seed, not by place"


def test_verdicts_are_counted() -> None:
    counted = ablation._summary([("", "reproduced"), ("", "reproduced"), ("", "not resolved")])
    assert counted.startswith("Of 3 differences that the paper reports, 2 reproduced, 1 not resolved (95 %")


def test_training_curves_are_means_of_windows(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "bits_per_dim": float(step)}) for step in range(1, 36)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    run = FinishedRun(tmp_path, 0, 1.0, 0.1, "bits/dim", 9, 1.0)
    assert ablation._smoothed(run) == {15: 8.0, 30: 23.0}


def test_sums_and_bands() -> None:
    found = runs([1.0, None, 2.0])
    assert scores(found) == [1.0, 2.0]
    assert total_seconds({"a": found, "b": runs([1.0])}) == 240.0
    (first, error), (_, none) = Curve([1, 2], [[1.0, 5.0], [2.0, 5.0]]).means_and_errors()
    assert (first, error, none) == (1.5, pytest.approx(0.5), 0.0)


def test_residual_flows_are_compared_with_all_others() -> None:
    models = {"real_nvp": [2.0, 2.1], "glow": [1.8, 1.81], "iresnet": [1.9, 2.0], "residual_flow": [1.9, 2.0]}
    group = {label: runs(list(values)) for label, values in models.items()}
    lines = density._findings("digits", group)
    assert lines[0] == "digits: Residual Flow minus Real NVP is -0.100 ± 0.000 bits/dim, reproduced."
    assert lines[1].endswith("not resolved.")
    assert lines[2] == "digits: Residual Flow minus i-ResNet is +0.000 ± 0.000 bits/dim, not resolved."
    group["glow"].pop()
    assert len(density._findings("digits", group)) == 2
    assert density._data_error(runs([1.0, 2.0])) == "0.020"


def test_the_table_of_densities_has_the_published_rows() -> None:
    table = density._table("mnist", "MNIST", {"glow": runs([1.1, 1.2]), "residual_flow": runs([1.0, 1.0])})
    assert [row[0] for row in table.rows] == ["Real NVP", "Glow", "FFJORD", "Flow++", "i-ResNet", "Residual Flow"]
    assert table.rows[1] == ("Glow", "1.150 ± 0.050", "0.020", "1.05")
    assert table.rows[4] == ("i-ResNet", "–", "–", "1.05")
    assert "published" not in density._table("digits", "", {}).head


def test_the_full_budget_trains_the_competitors() -> None:
    recipes = EXPERIMENTS["table1"].full.recipes()
    for model in ("real_nvp", "glow", "ffjord", "iresnet", "residual_flow"):
        assert f"cifar10-{model}" in recipes
        assert f"mnist-{model}" in recipes
    assert {"imagenet32-real_nvp", "imagenet64-glow", "celebahq256-glow"} <= recipes.keys()
    assert recipes["cifar10-iresnet"].architecture.options["squeeze_first"]
    assert recipes["cifar10-glow"].architecture.name == "glow_cifar10"


def test_norms_fit_the_layers() -> None:
    paper = norms._paper_grid(norms._GRID, norms._PAPER_BLOCKS)
    for family in (norms._grid(), paper, norms._digits(norms._ON_IMAGES), norms._cifar10(norms._LEARNED)):
        for label, recipe in family.items():
            built = recipe.architecture.norms.build()
            assert isinstance(built, MixedNorms) == label.startswith(("infinity", "mixed"))
    grid = norms._grid()
    assert grid["infinity-2"].architecture.norms.orders == [float("inf")] * 5
    assert grid["mixed-4"].architecture.norms.orders == [2.0, 2.4, 2.4, 2.4, 2.0]
    assert grid["mixed-4"].architecture.options["blocks"] == 4


def tiny_grid() -> dict[str, Recipe]:
    found = {}
    for kind in ("spectral", "infinity", "mixed", "learned"):
        recipe = found[f"{kind}-1"] = norms._checkerboard(norms._norms(kind, layers=4), 1)
        recipe.architecture.options["hidden"] = [4, 4, 4]
        recipe.training.steps, recipe.training.validate_every, recipe.data.limit = 2, 0, 60
        recipe.evaluation.limit, recipe.evaluation.samples = 30, 4
    return found


def tiny_images() -> dict[str, Recipe]:
    found = norms._digits(norms._ON_IMAGES)
    for recipe in found.values():
        recipe.architecture.options["hidden"] = 4
        recipe.training.steps, recipe.evaluation.limit, recipe.evaluation.draws = 2, 10, 1
    return found


def drawn(result: Result, folder: Path) -> bool:
    sizes = [(folder / picture.file).stat().st_size for picture in result.pictures]
    return min(sizes) > 3000 and result.training_seconds > 0


def test_the_figures_of_norms_on_the_checkerboard(tmp_path: Path) -> None:
    grid = Setting("Tiny.", "norms", tiny_grid)
    curves = norms.figure_15(Plan("fig15", grid, out=tmp_path))
    densities = norms.figure_16(Plan("fig16", grid, out=tmp_path))
    assert drawn(densities, tmp_path)
    assert drawn(curves, tmp_path)
    assert densities.values == {label: one[0] for label, one in curves.values.items()}
    best = max(curves.values, key=lambda label: curves.values[label][0])
    assert norms._NAMES[best[:-2]] in densities.findings[0]
    gain = curves.values["infinity-1"][0] - curves.values["spectral-1"][0]
    assert curves.findings[0].startswith(f"p = ∞ minus p = 2, 1 block: {gain:+.3f} (one seed)")


@pytest.mark.slow
def test_the_figures_of_learned_orders(tmp_path: Path) -> None:
    learned = Setting("Tiny.", "norms", lambda: {"learned-1": tiny_grid()["learned-1"]})
    orders = norms.figure_18(Plan("fig18", learned, out=tmp_path))
    images = norms.on_images(Plan("fig17", Setting("Tiny.", "images", tiny_images), out=tmp_path))
    assert drawn(orders, tmp_path)
    assert drawn(images, tmp_path)
    assert len(orders.values["learned-1"][0]) == 5
    assert [row[0] for row in images.tables[0].rows] == ["p = 2 (spectral)", "p = ∞", "learned"]
    gain = images.values["learned"][0] - images.values["spectral"][0]
    assert images.findings[1].startswith(f"learned minus p = 2: {gain:+.3f} (one seed)")


def test_the_lipschitz_constant_in_use_is_that_of_the_jacobians() -> None:
    """Against autograd through each block as a whole, in float64."""
    flow = residual_flow_images((1, 4, 4), blocks=(1, 1), hidden=3, dense_blocks=1, dense_hidden=5).double()
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    flow.log_prob(x)
    expected = []
    for one in flow.bijection.modules():
        if isinstance(one, ResidualBlock):
            seen: list[torch.Tensor] = []
            handle = one.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
            flow(x)
            handle.remove()
            for row in seen[0]:
                jacobian = torch.autograd.functional.jacobian(lambda v, one=one: one(v[None])[0] - v, row)
                expected.append(torch.linalg.svdvals(jacobian.reshape(16, 16))[0].item())
    assert ablation.lipschitz_used(flow, x) == pytest.approx(sum(expected) / len(expected), rel=1e-9)
    assert not any(one._forward_pre_hooks for one in flow.modules())


def test_the_gap_along_training(tmp_path: Path) -> None:
    found = {}
    for cell, height in ((CELLS[3], 1.0), (CELLS[2], 0.0)):
        folder = tmp_path / cell.label
        folder.mkdir()
        lines = [json.dumps({"step": at, "bits_per_dim": height * (100 - at)}) for at in range(1, 61)]
        (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
        found[cell.label] = [FinishedRun(folder, 0, 1.0, 0.1, "bits/dim", 9, 1.0)]
    (line,) = ablation._along(found, CELLS[3], CELLS[2])
    assert line.endswith("bits/dim of training batches: 77.000 at step 30; 62.000 at step 45; 47.000 at step 60.")


def test_gains_of_norms_count_upwards_in_nats() -> None:
    found = {"spectral-2": runs([-4.2, -4.3, -4.1]), "learned-2": runs([-4.1, -4.19, -4.0])}
    assert norms._gain(found, "learned", 2).endswith("nats, reproduced.")
    found["learned-2"] = runs([-4.3, -4.41, -4.2])
    assert norms._gain(found, "learned", 2).endswith("nats, contradicted.")
    found["learned-2"] = runs([-4.3, None, -4.2])
    assert norms._gain(found, "learned", 2) == "learned, 2 blocks: not all seeds finished."


def test_scores_are_explained_by_what_is_measured() -> None:
    measured = [
        ablation.Measured(cell, [2.0 + at, 2.2 + at], 0.94 + 0.05 * at, [0.8 - 0.1 * at], "0", 180)
        for at, cell in enumerate(ablation._FIGURE[:4])
    ]
    correlation, loose = ablation._explained(measured)
    assert correlation.startswith("Over the 4 settings")
    assert correlation.endswith("have a rank correlation of -1.00.")
    assert loose.endswith(
        "of a block): Residual Flow + Swish, c = 0.98 (1.040), Residual Flow + LipSwish, c = 0.98 (1.090)."
    )
    failed = ablation.Measured.of(CELLS[0], runs([None, None]))
    assert (failed.values, failed.bound, failed.used, failed.failed) == ([], None, [], "2 (TrainingError)")
    table = ablation._scores([*measured, failed])
    assert table.rows[0][1:] == ("2.100 ± 0.100", "0.940", "0.800", "0")
    assert table.rows[-1][1:] == ("–", "–", "–", "2 (TrainingError)")
