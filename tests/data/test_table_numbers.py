"""Columns of large numbers, of outliers and of integers: the density in their own units, against closed forms."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Generator, Tensor

from contraflow import Chain, Exact, Flow, residual_flow
from contraflow.bijections import Affine
from contraflow.data import columns_of, indices_of, refuse_columns_without_density, remarks
from contraflow.errors import ConfigurationError, DataError, DomainError
from contraflow.evaluation import report_scores, score
from contraflow.evaluation.pictures import density_on_grid
from contraflow.evaluation.reconstruction import reconstruct
from contraflow.preprocessing import TablePreprocessing, preprocessing_from_config
from contraflow.testing import check_bijection

START = 1_700_000_000.0  # seconds since 1970, in 2023


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(x: Tensor, mean: float, std: float) -> Tensor:
    return torch.distributions.Normal(double(mean), double(std)).log_prob(x.double())


def table_flow(preprocessing: TablePreprocessing) -> Flow:
    """A Gaussian in z."""
    return Flow((len(preprocessing.mean),), Chain([]), preprocessing=preprocessing)


@pytest.mark.parametrize("preprocessing", ["table", "affine", "chain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_a_float32_flow_sees_all_digits(preprocessing: str, dtype: torch.dtype) -> None:
    """log p is that of N(1.7e9, 10): a float32 sees steps of 128 s."""
    table = TablePreprocessing([START], [10.0])
    maps = {"table": table, "affine": Affine(double(START), double(10.0)), "chain": Chain([table, Chain([table])])}
    if preprocessing == "chain":
        maps["chain"] = Chain([table, TablePreprocessing([0.0], [1.0])])
    flow = Flow((1,), Chain([]), preprocessing=maps[preprocessing]).float()
    x = (START + torch.arange(-30, 31, 3, dtype=torch.float64))[:, None].to(dtype)
    # an Affine has rounded its own shift: one number, the same for every row
    shift = START if preprocessing != "affine" else double(START).float().item()
    expected = normal(x[:, 0], shift, 10.0)
    found = flow.log_prob(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert flow(x).dtype == torch.float32
    torch.testing.assert_close(flow.inverse(flow(x)), x.double(), atol=1e-5, rtol=0)


def test_samples_keep_the_spread_that_float32_cannot_hold() -> None:
    flow = table_flow(TablePreprocessing([START], [10.0])).float()
    x = flow.sample(5000, generator=Generator().manual_seed(0))
    assert x.dtype == torch.float64
    assert len(x.unique()) > 4900
    assert abs((x - START).mean().item()) < 0.6
    assert x.std().item() == pytest.approx(10, rel=0.05)


def test_moments_are_float64_whatever_the_flow_is() -> None:
    table = TablePreprocessing([START + 0.25], [1e-3])
    for changed in (
        copy.deepcopy(table).float(),
        copy.deepcopy(table).double().float(),
        copy.deepcopy(table).to("meta", torch.float32).to_empty(device="cpu"),
    ):
        assert changed.mean.dtype == changed.std.dtype == torch.float64
    assert copy.deepcopy(table).float().mean.item() == START + 0.25
    loaded = TablePreprocessing([0.0], [1.0])
    loaded.load_state_dict({name: one.float() for name, one in table.state_dict().items()})
    assert loaded.mean.dtype == torch.float64, "older checkpoints hold float32"


def test_a_number_too_large_after_scaling_is_refused_by_name() -> None:
    flow = table_flow(TablePreprocessing([0.0], [1.0])).float()
    with pytest.raises(DomainError, match=r"beyond the range of torch\.float32 in sample 1"):
        flow.log_prob(double(1.0, 1e39)[:, None])
    assert torch.isfinite(table_flow(TablePreprocessing([0.0], [1e39])).float().log_prob(double(1e39)[:, None])).all()


def test_what_is_computed_beside_log_prob_keeps_the_digits_too() -> None:
    table = TablePreprocessing([START, 0.0], [10.0, 1.0])
    flow = residual_flow((2,), blocks=1, hidden=(4,), preprocessing=table, logdet=Exact()).float()
    x = double(START, 0.0) + torch.randn(20, 2, dtype=torch.float64) * double(10.0, 1.0)
    found = reconstruct(flow, x)
    assert found.error.max().item() < 1e-3
    assert found.identical is None
    flat = table_flow(table).float()
    density, (left, right, bottom, top) = density_on_grid(flat.log_prob, x, 200)
    assert right - left < 100, "the grid is as wide as the data"
    mass = density.sum() * (right - left) * (top - bottom) / 199**2
    low, high = double(left, bottom), double(right, top)
    inside = torch.special.ndtr((high - table.mean) / table.std) - torch.special.ndtr((low - table.mean) / table.std)
    assert mass == pytest.approx(inside.prod().item(), rel=0.01)


@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_both_scalings_keep_the_laws(scaling: str) -> None:
    table = TablePreprocessing([1.0, -2.0, 0.0], [0.5, 3.0, 10.0], scaling=scaling)
    check_bijection(table, 3 * torch.randn(6, 3, dtype=torch.float64))


def test_a_robust_density_integrates_to_one() -> None:
    """Under a base eight times as wide as a normal one, up to |x| = 10^17: in the variable log |x|."""
    robust = TablePreprocessing([1.0], [2.0], scaling="robust")
    flow = Flow((1,), Chain([Affine(double(0.0), double(8.0))]), preprocessing=robust).double()
    u = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    x = u.sinh()
    mass = torch.trapezoid(flow.log_prob(x[:, None]).exp() * u.cosh(), u)
    assert mass.item() == pytest.approx(1, abs=1e-9)


def test_outliers_do_not_set_a_robust_scale() -> None:
    column = torch.randn(1000, dtype=torch.float64)
    column[:10] = 1e12
    rows = torch.stack([column, torch.randn(1000, dtype=torch.float64)], 1)
    robust, standard = (TablePreprocessing.fit(rows, scaling=one) for one in ("robust", "standard"))
    assert robust.mean[0].abs() < 0.2
    assert robust.std[0].item() == pytest.approx(1, abs=0.15)
    z = robust(rows).float()
    assert 75 < z.abs().max() < 90
    assert len(z[10:, 0].unique()) > 980
    assert len(standard(rows).float()[10:, 0].unique()) < 10
    torch.testing.assert_close(robust.inverse(z.double()), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("equal", "std"), [(0.7, 1.0), (0.93, 1.0), (0.999, None)])
def test_a_robust_scale_where_most_of_a_column_is_one_number(equal: float, std: float | None) -> None:
    """Wider quantiles, at last the standard deviation: never zero."""
    n = 10_000
    column = torch.distributions.Normal(double(0.0), double(1.0)).icdf((torch.arange(n) + 0.5).double() / n).flatten()
    column[(torch.arange(n) - n / 2).abs() < equal * n / 2] = 0.0
    found = TablePreprocessing.fit(column[:, None], scaling="robust").std.item()
    assert found == pytest.approx(column.std(correction=0).item() if std is None else std, rel=1e-2)


def test_dequantised_probabilities_are_those_of_the_cells() -> None:
    """exp log p, averaged over noise, is the mass between an integer and the next, and log p lies below its log."""
    table = TablePreprocessing([0.5, 0.0], [2.0, 1.0], ranges=[(-3, 4), None])
    flow = table_flow(table).double()
    x = torch.tensor([[0, 0.5], [3, -1.0]], dtype=torch.float64)
    many = flow.log_prob(x.repeat(20_000, 1), generator=Generator().manual_seed(0)).reshape(20_000, 2)
    cell = torch.special.ndtr((x[:, 0] + 1 - 0.5) / 2) - torch.special.ndtr((x[:, 0] - 0.5) / 2)
    exact = cell.log() + normal(x[:, 1], 0.0, 1.0)
    torch.testing.assert_close(many.exp().mean(0).log(), exact, atol=5e-3, rtol=0)
    # E (x + u - 0.5)² = x² + 1/12
    bound = -math.log(2) - math.log(2 * math.pi) / 2 - (x[:, 0].square() + 1 / 12) / 8 + normal(x[:, 1], 0.0, 1.0)
    torch.testing.assert_close(many.mean(0), bound, atol=5e-3, rtol=0)
    assert bool((bound < exact).all())


def test_scores_of_dequantised_columns_are_averaged_over_noise() -> None:
    flow = table_flow(TablePreprocessing([0.5], [0.6], ranges=[(0, 1)])).float()
    x = torch.tensor([[0], [1]])
    found = score(flow, x, draws=200, generator=Generator().manual_seed(0))
    assert bool((found.standard_error > 0).all())
    assert "200 dequantisation draws" in str(report_scores(flow, found, Exact()))


def test_samples_of_dequantised_columns_are_integers_that_were_seen() -> None:
    integers = torch.randint(0, 3, (500,), generator=Generator().manual_seed(0)).double()
    rows = torch.stack([integers, torch.randn(500, dtype=torch.float64)], 1)
    table = TablePreprocessing.fit(rows, ["grade", "y"], dequantise=[0])
    x = table_flow(table).float().sample(2000, generator=Generator().manual_seed(0))
    assert x[:, 0].unique().tolist() == [0, 1, 2]
    assert len(x[:, 1].unique()) > 1900
    assert table.mean[0].item() == pytest.approx(integers.mean().item() + 0.5)
    assert table.std[0].item() == pytest.approx(math.sqrt(integers.var(correction=0).item() + 1 / 12))
    assert torch.equal(table.quantise(table.inverse(table(rows)))[:, 0], integers)
    with pytest.raises(DomainError, match=r"column 'grade' is dequantised, so it takes integers; sample 1 holds 0\.5"):
        table(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    with pytest.raises(DomainError, match=r"column 'y' holds -?\d.*only columns of integers can be dequantised"):
        TablePreprocessing.fit(rows, ["grade", "y"], dequantise=[1])


def test_a_table_comes_back_from_its_configuration() -> None:
    rows = torch.stack([torch.arange(50).double() % 4 + START, torch.randn(50, dtype=torch.float64)], 1)
    table = TablePreprocessing.fit(rows, ["a", "b"], scaling="robust", dequantise=[0])
    again = preprocessing_from_config(json.loads(json.dumps(table.config())))
    assert again.config() == table.config()
    ours, theirs = (one(rows, generator=Generator().manual_seed(1)) for one in (table, again))
    assert torch.equal(ours, theirs)
    older = preprocessing_from_config({"kind": "table", "mean": [1.0], "std": [2.0], "columns": None})
    assert (older.config()["scaling"], older.config()["ranges"]) == ("standard", None)
    with pytest.raises(ConfigurationError, match="unknown scaling 'rank'"):
        TablePreprocessing([0.0], [1.0], scaling="rank")


def test_columns_without_a_density_are_named_with_the_choices() -> None:
    n = 200
    rows = torch.stack(
        [torch.arange(n) % 2, torch.arange(n) % 20, torch.arange(n) % 3 / 2, torch.arange(n) % 21, torch.randn(n)], 1
    )
    names = ["flag", "grade", "half", "age", "y"]
    with pytest.raises(DataError) as caught:
        refuse_columns_without_density("t.csv", columns_of(rows, names), [], named=True)
    message = str(caught.value)
    assert message.startswith("t.csv: no density in columns 'flag' (2 values: 0, 1), 'grade' (20 values: 0, 1, 2, …), ")
    for choice in ("data.columns=[age,y]", "data.dequantise=[flag,grade]", "rescale other numbers to integers"):
        assert choice in message
    with pytest.raises(DataError, match=r"column '0' .*drop it, or dequantise integers \(data.dequantise=\[0\]\)\.$"):
        refuse_columns_without_density("t.npy", columns_of(rows[:, [0, 4]], None), [], named=False)
    refuse_columns_without_density("t.csv", columns_of(rows, names), [0, 1, 2], named=True)
    few_rows = columns_of(torch.tensor([[1.0], [2.0], [3.0]]), None)
    refuse_columns_without_density("t.csv", few_rows, [], named=True)


def said(rows: Tensor, scaling: str | None = "standard", dequantised: tuple[int, ...] = (), dtype=torch.float32) -> str:
    scaled = rows.sort(dim=0).values
    if scaling is not None:
        scaled = TablePreprocessing.fit(rows, scaling=scaling)(scaled)
    return "\n".join(remarks(columns_of(rows, ["a"]), dequantised, scaling, scaled.to(dtype).unbind(1)))


def test_what_is_said_of_a_column() -> None:
    real = torch.randn(1000, 1, dtype=torch.float64)
    assert said(real) == said(real, "robust") == said(real, None) == ""
    age = (30 + 10 * real).round()
    assert "column 'a' holds integers" in said(age)
    assert said(age, dequantised=(0,)) == said((1e6 * real).round()) == said(START + (1e5 * real).round()) == ""
    atom = real.clone()
    atom[:300] = 0.0
    assert "column 'a' is 0 in 30% of the rows" in said(atom)
    far = real.clone()
    far[:3] = 1e12
    assert "are 2 for the flow, which computes in float32" in said(far)
    assert "standard deviation to 5.4" in said(far)
    assert "preprocessing.kind=robust" in said(far)
    assert "different values" not in said(far, dtype=torch.float64)
    assert said(far, "robust") == ""
    assert said(START + real) == ""
    assert "are 1 for the flow" in said(START + real, None)
    assert "preprocessing.kind=standardise" in said(START + real, None)


def test_a_column_that_float32_made_constant_is_told_so() -> None:
    rows = (START + torch.arange(50, dtype=torch.float64))[:, None]
    with pytest.raises(DomainError, match=r"constant \(1700000000\).*numbers are 128 apart.*float64"):
        TablePreprocessing.fit(rows.float())
    assert TablePreprocessing.fit(rows).std.item() == pytest.approx(math.sqrt((50**2 - 1) / 12))


def test_columns_are_found_by_name_or_number() -> None:
    with pytest.raises(ConfigurationError, match=r"no column 'flga'\. Did you mean 'flag'"):
        indices_of(["flga"], 2, ["flag", "y"])
    assert indices_of([1, "0", 1], 2, None) == [0, 1]
