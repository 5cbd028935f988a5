"""The published figures, against an independent transcription and against each other."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.paper import EXPERIMENTS, Table, published

TRANSCRIPTION = Path(__file__).with_name("published.md").read_text(encoding="utf-8")
TABLES = {
    "Table 1": [published.TABLE_1],
    "Table 2": [published.TABLE_2],
    "Table 3": [published.TABLE_3],
    "Table 4": [published.TABLE_4_MNIST, published.TABLE_4_SVHN],
    "Table 5": [published.TABLE_5],
    "The lecture's table": [published.LECTURE],
}


def numbers(row: str) -> list[str]:
    """The figures of a row, in brackets or not, and what stands for an absent one is left out."""
    return re.findall(r"-?\d+\.\d+", row)


def transcribed(title: str) -> dict[str, list[str]]:
    """Row → figures of a table in the transcription."""
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?:\n\n|\Z)", TRANSCRIPTION, re.DOTALL | re.MULTILINE)
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines()[2:]]
    return {name.strip(): numbers(rest) for name, rest in rows}


def test_every_figure_is_that_of_the_transcription() -> None:
    for title, tables in TABLES.items():
        expected = transcribed(title)
        names = [row[0] for row in tables[0].rows]
        assert len(names) == len(expected)
        for name, key in zip(names, expected, strict=True):
            assert name.startswith(key), title
            figures = [
                one for table in tables for row in table.rows if row[0] == name for one in numbers(" ".join(row[1:]))
            ]
            assert figures == expected[key], (title, name)


def test_rows_are_as_long_as_their_head() -> None:
    for table in (one for tables in TABLES.values() for one in tables):
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_tables_agree_where_they_overlap() -> None:
    for column in ("MNIST", "CIFAR-10"):
        for model in ("Real NVP", "Glow", "FFJORD"):
            assert published.LECTURE.cell(model, column) == published.TABLE_1.cell(model, column)
        best = float(published.TABLE_3.cell("Residual Flow + LipSwish", column))
        assert best == float(published.TABLE_1.cell("Residual Flow", column))
    assert published.TABLE_1.cell("i-ResNet", "MNIST") == published.TABLE_3.cell("i-ResNet + ELU", "MNIST") == "1.05"
    assert published.TABLE_1.cell("DCGAN", "MNIST") == "–"


def test_no_claim_is_quoted_from_memory() -> None:
    for name, experiment in EXPERIMENTS.items():
        text = " ".join(map(str, experiment.claims))
        assert "memory, not" not in text, name
        assert all(claim.where for claim in experiment.claims), name


def test_tables_are_on_the_pages_of_their_experiments() -> None:
    for name, tables in {
        "table1": ["Table 1"],
        "table2": ["Table 2"],
        "table3": ["Table 3"],
        "table5": ["Table 5"],
    }.items():
        assert list(EXPERIMENTS[name].published) == [table for title in tables for table in TABLES[title]]
    assert list(EXPERIMENTS["table4"].published) == TABLES["Table 4"]
    assert all(isinstance(one, Table) for experiment in EXPERIMENTS.values() for one in experiment.published)


def test_figures_are_of_the_papers_data_sets() -> None:
    """The full settings of the figures that the paper draws on CIFAR-10, on CelebA-HQ, and with 200 blocks."""
    for name in ("fig2", "fig8", "fig15b", "fig17", "fig18", "table2", "table5"):
        assert {recipe.data.name for recipe in EXPERIMENTS[name].full.recipes().values()} == {"cifar10"}, name
    assert {one.data.name for one in EXPERIMENTS["fig7"].full.recipes().values()} == {"celebahq256"}
    deep = EXPERIMENTS["fig16"].full.recipes().values()
    assert {one.architecture.options["blocks"] for one in deep} == {200}
    assert {one.data.name for one in EXPERIMENTS["table3"].full.recipes().values()} == {"mnist", "cifar10"}
