"""Reports of tiny runs: their numbers are those of the other commands, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import copy
import csv
import functools
import html
import io
import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contraflow.architectures import BranchedFlow
from contraflow.bijections import ResidualBlock
from contraflow.cli import main
from contraflow.data import Dataset
from contraflow.errors import ConfigurationError, DomainError, InversionError, ShapeError
from contraflow.evaluation import Reconstruction
from contraflow.evaluation.figures import PALETTE
from contraflow.flow import Flow
from contraflow.report import (
    SECTIONS,
    ReportSettings,
    RunData,
    calibration,
    classifier,
    report_page,
    tables,
)
from contraflow.report import sections as report_sections
from contraflow.report.calibration import integral_histograms
from contraflow.report.classifier import confused_pairs
from contraflow.report.curves import likelihood_curve, training
from contraflow.report.densities import other_data, score_histograms
from contraflow.report.images import interpolations, nearest_training, temperature_sweep
from contraflow.report.invertibility import invertibility, reconstruction
from contraflow.report.origin import origin
from contraflow.report.sections import facts
from contraflow.report.two_dimensional import grid_lines
from contraflow.runs import Run, load_run
from contraflow.runs.build import load_data

SHORT = ["training.steps=6", "training.batch_size=32", "training.log_every=2", "training.validate_every=3"]
TINY_IMAGES = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=8",
    "architecture.options.dense_blocks=1",
    "architecture.options.dense_hidden=8",
    "data.limit=64",
    "evaluation.limit=40",
    "evaluation.samples=9",
    "evaluation.draws=2",
]
TINY_ROWS = ["architecture.options.blocks=2", "architecture.options.hidden=[8]", "evaluation.samples=60"]
#: Markup, mathematics and an entity, all of which must come out as they are.
COLUMNS = ["<b>age</b>", "$x_1$", 'a&b "c"']
FILE = "a <i>file & more.csv"
ALIKE = ("Training", "Invertibility")
KINDS = ["images", "plane", "table", "hybrid", "labelled"]


def train(folder: Path, *arguments: str) -> Path:
    run = folder / "run"
    assert main(["train", *arguments, "--out", str(run), *SHORT]) == 0
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("digits"), "digits", *TINY_IMAGES)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ["architecture.norms.kind=learned", "evaluation.limit=50"]
    return train(tmp_path_factory.mktemp("moons"), "checkerboard", *TINY_ROWS, *more)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal(size=(120, 3)) * [1, 10, 0.1]
    with open(folder / FILE, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows.tolist()])
    return train(folder, "table", f"data.name={folder / FILE}", "estimator.kind=adaptive", *TINY_ROWS)


HYBRID = ["architecture.options.branch_features=6", "objective.likelihood_weight=0.02", "training.learning_rate=0.02"]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid")
    return train(folder, "digits_hybrid", *TINY_IMAGES, *HYBRID, "evaluation.limit=60")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid run on a table whose rows lie about (0, 0) or (4, 0), by class; a tenth of the labels is unknown."""
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, rows in (("train", 300), ("validation", 40), ("test", 80)):
        classes = generator.integers(0, 2, rows)
        shift = np.stack([4 * classes, 0 * classes], axis=1)
        arrays[split] = (shift + generator.normal(size=(rows, 2))).astype(np.float32)
        arrays[f"{split}_labels"] = np.where(generator.random(rows) < 0.1, -1, classes)
    np.savez(folder / "rows.npz", **arrays)
    options = ["architecture.name=hybrid", "objective.kind=hybrid", f"data.name={folder / 'rows.npz'}"]
    options += ['architecture.options={"classes":2,"blocks":[1],"hidden":16,"classifier":"base"}']
    options += ["training.steps=60", "training.warmup_steps=5", "training.learning_rate=0.05", "evaluation.samples=200"]
    run = folder / "run"
    assert main(["train", "table", "--out", str(run), *SHORT[1:], *options]) == 0
    return run


@functools.cache
def read(run: Path) -> tuple[Run, Dataset]:
    trained = load_run(run)
    return trained, load_data(trained.recipe.data, trained.recipe.seed)


def subject_of(run: Path, **settings: object) -> RunData:
    return RunData(*read(run), ReportSettings(**{"rows": 40, **settings}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pages(images: Path, plane: Path, table: Path, hybrid: Path, labelled: Path) -> dict[str, str]:
    """Whole for images; for others without the sections that are drawn alike, to save time."""
    runs = {"plane": plane, "table": table, "hybrid": hybrid, "labelled": labelled}
    pages = {"images": report_page(subject_of(images))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_sections, "SECTIONS", {title: SECTIONS[title] for title in SECTIONS if title not in ALIKE})
        return pages | {kind: report_page(subject_of(run)) for kind, run in runs.items()}


def words(page: str) -> str:
    """What a page says, without markup."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page[page.index("<body") :]))


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def section(page: str, title: str) -> str:
    """The HTML of one section."""
    (found,) = re.findall(rf'<section id="{title.lower()}">.*?</section>', page, re.DOTALL)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_what_evaluate_prints(
    kind: str,
    pages: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command that the page gives is run, as it stands, and asked for the calibration too."""
    said = words(pages[kind])
    (command,) = re.findall(r"contraflow (evaluate RUN .*)", said)
    run = request.getfixturevalue(kind)
    capsys.readouterr()
    picture = ["--calibration", str(tmp_path / "calibration.png")]
    assert main([*(one.replace("RUN", str(run)) for one in shlex.split(command)), *picture]) == 0
    first, *classes, latent, _ = capsys.readouterr().out.splitlines()
    printed = re.fullmatch(r"(\S+) (-?[\d.]+ ± [\d.]+) \((\d+) .*\)", first)
    assert printed is not None
    unit, score, rows = printed.groups()
    assert f"Test score, {unit}" in said
    assert said.count(score) == 2, "at the top and in the table"
    assert re.search(rf"{re.escape(score)} {rows} rows, \d draws? each", re.sub(r"\s+", " ", said))
    assert latent in words("<body" + section(pages[kind], "Calibration"))
    assert len(classes) == (kind in ("hybrid", "labelled"))
    for line in classes:
        table = " ".join(words("<body" + section(pages[kind], "Classifier")).split())
        numbers = re.fullmatch(
            r"accuracy (.* %) \((95 %: .*)\), cross entropy (.* ± .*) nats, calibration error (.* ± .*) "
            r"\((\d+) rows(?:, (\d+) draws)?\)",
            line,
        )
        assert numbers is not None
        accuracy, interval, entropy, calibration, count, draws = numbers.groups()
        assert f"accuracy {accuracy} {interval} negative log-likelihood, nats {entropy} " in table
        assert f"expected calibration error {calibration} " in table
        assert f"of {count} labelled test rows" in table
        assert f"over {draws or 1} draw" in table
        assert f"Test accuracy {accuracy} {interval}, {count} rows" in " ".join(said.split())


def test_the_classifier_is_scored_by_the_passes_of_the_likelihood(
    hybrid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, seen = subject_of(hybrid), []
    original = Flow._enter

    def counted(self: Flow, x: torch.Tensor, *rest: object) -> object:
        seen.append(len(x))
        return original(self, x, *rest)

    monkeypatch.setattr(Flow, "_enter", counted)
    assert subject.classification is not None
    assert subject.classification.rows == 40
    assert seen == [40, 40], "the recipe's two draws"


@pytest.mark.parametrize("kind", ["hybrid", "labelled"])
def test_confused_pairs_and_reliability(kind: str, pages: dict[str, str], request: pytest.FixtureRequest) -> None:
    """The table of the page, counted again; rows without a label are in no pair."""
    subject = subject_of(request.getfixturevalue(kind))
    guess = subject.test_score.scores.class_probabilities.argmax(1)
    wrong = [
        pair for pair in zip(subject.test_labels.tolist(), guess.tolist(), strict=True) if pair[0] not in (-1, pair[1])
    ]
    found = section(pages[kind], "Classifier")
    pairs = re.findall(r"<th>(\d+) classified as (\d+)</th><td>(\d+) of (\d+)</td>", found)
    assert len(pairs) == min(10, len(set(wrong)))
    for label, other, count, of in pairs:
        assert int(count) == wrong.count((int(label), int(other)))
        assert int(of) == (subject.test_labels == int(label)).sum()
    assert 'aria-label="accuracy against the confidence' in found


def test_the_pairs_left_out_are_counted() -> None:
    """Twelve pairs: label 0 taken for 1 to 12, the k-th k times."""
    guess = torch.arange(1, 13).repeat_interleave(torch.arange(1, 13))
    (found,) = confused_pairs(torch.eye(13)[guess], torch.zeros(len(guess), dtype=torch.long))
    counts = re.findall(r"<th>0 classified as (\d+)</th><td>(\d+) of 78</td>", found)
    assert counts == [(f"{k}", f"{k}") for k in range(12, 2, -1)]
    assert " 3 other errors are not listed" in found


def test_nothing_is_confused_by_a_perfect_classifier() -> None:
    assert "All rows are classified correctly" in confused_pairs(torch.eye(3), torch.arange(3))[0]


def test_samples_are_of_the_class_they_stand_beside(labelled: Path, pages: dict[str, str]) -> None:
    """About (0, 0) for class 0 and (4, 0) for class 1: the mean of 100 is closer to its own than to the other's."""
    drawn: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "columns_by_class", lambda run, samples: drawn.append(samples) or "picture")
        subject = subject_of(labelled)
        classifier.samples_by_class(subject, subject.trained.flow)
    assert drawn[0].shape == (2, 100, 2)
    means = drawn[0].mean(dim=1)[:, 0]
    assert means[0] < 1.5 < 2.5 < means[1]
    assert section(pages["labelled"], "Classifier").count('aria-label="test rows and samples of each class"') == 1


def test_a_row_of_images_for_each_class(pages: dict[str, str]) -> None:
    rows = pictures(section(pages["hybrid"], "Classifier"))
    assert len(rows) == 10
    assert all(tiles(one).shape == (1, 8, 8, 8) for one in rows)


def test_a_class_that_is_hardly_ever_drawn_is_said(hybrid: Path) -> None:
    trained, data = read(hybrid)
    flow = copy.deepcopy(trained.flow)
    assert isinstance(flow, BranchedFlow)
    with torch.no_grad():
        flow.classifier.bias[7] = -1e4
    (said,) = classifier.samples_by_class(RunData(replace(trained, flow=flow), data), flow)
    assert "Samples of each class are not shown" in said
    assert "[7]" in said


def test_a_flow_with_classes_and_data_without_labels(labelled: Path) -> None:
    """Nothing to compare the classes with, and no class to centre a latent on."""
    trained, data = read(labelled)
    subject = RunData(trained, replace(data, test_labels=None))
    assert subject.classification is None
    assert classifier.classifier(subject) is None
    assert calibration.calibration(subject) is None


def test_the_band_of_integrals_counts_the_samples(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[torch.Tensor, int | None]] = []

    def drawn(axes: object, values: torch.Tensor, samples: int | None = None) -> None:
        found.append((values, samples))

    monkeypatch.setattr(calibration, "draw_uniform", drawn)
    subject = subject_of(table)
    calibration.calibration(subject)
    assert [samples for _, samples in found] == [60, 60, 60]
    for column, (values, _) in enumerate(found):
        below = (subject.samples[:, column] < subject.test[:, column, None]).double().mean(dim=1)
        torch.testing.assert_close(values, below, atol=1e-6, rtol=0)


def test_the_score_of_training_again(images: Path) -> None:
    report = json.loads((images / "evaluation.json").read_text())
    assert {**subject_of(images).test_score.report.as_dict(), "by_estimates": None} == report


def test_sections_fit_the_data(pages: dict[str, str]) -> None:
    last = "How to get this run"
    assert titles(pages["images"]) == ["Samples", "Training", "Likelihood", "Calibration", "Invertibility", last]
    assert titles(pages["plane"]) == ["Density and samples", "Likelihood", "Calibration", "Learned norms", last]
    assert titles(pages["table"]) == ["Columns and samples", "Likelihood", "Calibration", last]
    assert titles(pages["hybrid"]) == ["Samples", "Likelihood", "Calibration", "Classifier", last]
    assert titles(pages["labelled"]) == ["Density and samples", "Likelihood", "Calibration", "Classifier", last]
    assert set(SECTIONS) == {title for page in pages.values() for title in titles(page)}


def test_the_certificate_is_that_of_certify(images: Path, pages: dict[str, str]) -> None:
    certificate = load_run(images).flow.certify()
    said = words(pages["images"])
    assert str(certificate) in said
    for block in certificate.blocks:
        assert f"{block.bound:.5f}" in said
    assert f"{max(one.bound for one in certificate.blocks):.4f}" in said


class Links(HTMLParser):
    """Elements, ids, and everything that a browser might ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.asked.append(value or "")
            self.asked += re.findall(r"url\(([^)]*)\)", value or "")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_for_from_outside(kind: str, pages: dict[str, str]) -> None:
    links = Links()
    links.feed(pages[kind])
    assert not links.tags & {"script", "iframe", "object", "embed", "audio", "video", "form"}
    assert len(links.asked) > 20
    assert len(links.ids) == len(set(links.ids)), "of different pictures too"
    for target in links.asked:
        assert target.startswith("data:") or target.removeprefix("#") in links.ids, target
    style = re.findall(r"<style.*?</style>", pages[kind], re.DOTALL)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", "".join(style))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_take_the_colours_of_the_page(kind: str, pages: dict[str, str]) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", pages[kind], re.DOTALL))
    assert "var(--ink)" in svg
    for shades in PALETTE.values():
        assert shades["light"] not in svg
    assert len({shades["light"] for shades in PALETTE.values()}) == len(PALETTE)


def test_names_come_out_as_they_are(pages: dict[str, str]) -> None:
    page = pages["table"]
    assert "<b>age</b>" not in page
    assert "<i>" not in page
    said = words(page)
    for name in COLUMNS:
        assert said.count(name) >= 2, "over its histogram and on the diagonal"
    assert said.count(FILE) == 3, "as the title, in the command, in the recipe"


def test_the_command_of_the_run(table: Path, pages: dict[str, str]) -> None:
    """It gives the recipe that was trained: parsed again it is the same."""
    (command,) = re.findall(r"contraflow (train [^\n]*?)  ", words(pages["table"]))
    again = table.parent / "again"
    assert main([one.replace("RUN", str(again)) for one in shlex.split(command)]) == 0
    recipes = [json.loads(next((run / "checkpoints").rglob("config.json")).read_text()) for run in (table, again)]
    assert recipes[0] == recipes[1]


def test_the_same_seed_the_same_page(
    plane: Path, pages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command too, whatever other sections there are, and nothing else is changed."""
    monkeypatch.setattr(
        report_sections, "SECTIONS", {title: SECTIONS[title] for title in ("Likelihood", "Learned norms")}
    )
    before = {path: path.read_bytes() for path in plane.rglob("*") if path.is_file()}
    state = torch.random.get_rng_state()
    out = tmp_path / "page.html"
    assert main(["report", str(plane), "--rows", "40", "--out", str(out)]) == 0
    sections = re.findall(r"<section.*?</section>", out.read_text(), re.DOTALL)
    assert len(sections) == 2
    assert all(section in pages["plane"] for section in sections)
    assert {path: path.read_bytes() for path in plane.rglob("*") if path.is_file()} == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_another_score(images: Path, pages: dict[str, str]) -> None:
    scores = [subject_of(images, seed=seed).test_score.report.value for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_adaptive_laws_are_in_the_table(table: Path) -> None:
    """Of a run on rows: the sections that the page above leaves out."""
    subject = subject_of(table)
    said = words("<body" + "".join(invertibility(subject) + (training(subject) or [])))
    decay = next(one.decay for one in subject.trained.flow.modules() if isinstance(one, ResidualBlock))
    q, exact = decay.law.tolist()
    assert f"{max(exact, 1):.0f} exact, q = {q:.2f}" in said
    assert "higher is better" in said


def test_without_a_log(images: Path, tmp_path: Path) -> None:
    run = shutil.copytree(images, tmp_path / "run")
    (run / "log.jsonl").unlink()
    subject = subject_of(run)
    assert training(subject) is None
    assert "no training log" in str(facts(subject))


def test_a_damaged_log(images: Path, tmp_path: Path) -> None:
    """What is no line of ours is left out, and so is what comes after the weights."""
    run = shutil.copytree(images, tmp_path / "run")
    kept = (run / "log.jsonl").read_text()
    later = json.dumps({"step": 10_000, "bits_per_dim": 1.0, "gradient_norm": 1.0, "seconds": 1.0})
    (run / "log.jsonl").write_text(f'[]\n{{"step": "1"}}\n{kept}{later}\nnull\n{{"step": 4, "gradient_no')
    assert subject_of(run).log == [json.loads(line) for line in kept.splitlines()]


def test_a_section_that_fails_says_so(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(subject: RunData) -> list[str]:
        raise InversionError("block 3 <stuck>")

    monkeypatch.setattr(report_sections, "SECTIONS", {"Samples": fail, "Columns": lambda subject: None, "End": origin})
    page = report_page(subject_of(images))
    assert "This section could not be computed: block 3 <stuck>" in words(page)
    assert titles(page) == ["Samples", "End"]


def test_other_data(plane: Path, images: Path) -> None:
    """From close to far: the same pixels and the same columns first, noise last."""
    subject = subject_of(images)
    turned, noise = other_data(subject).values()
    assert torch.equal(turned.rot90(2, (2, 3)), subject.test)
    assert noise.dtype == torch.uint8
    assert int(noise.max()) == 16
    subject = subject_of(plane)
    found = other_data(subject_of(plane, other="two_spirals"))
    assert list(found) == ["test, columns shuffled", "two_spirals", "noise"]
    shuffled = found["test, columns shuffled"]
    assert torch.equal(shuffled.sort(dim=0).values, subject.test.sort(dim=0).values)
    assert not torch.equal(shuffled[shuffled[:, 0].argsort()], subject.test[subject.test[:, 0].argsort()])
    for column in (0, 1):
        assert subject.test[:, column].min() <= found["noise"][:, column].min()
        assert found["noise"][:, column].max() <= subject.test[:, column].max()
    with pytest.raises(ShapeError, match=r"other=moons.*\(1, 8, 8\)"):
        other_data(subject_of(images, other="moons"))


def pictures(block: str) -> list[np.ndarray]:
    """The pixels of the images in some HTML."""
    found = re.findall(r"data:image/png;base64,([^\"]*)", block)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def tiles(grid: np.ndarray) -> np.ndarray:
    """The 8×8 images of a grid, ``(rows, columns, 8, 8)``, back in levels."""
    rows, columns = grid.shape[0] // 9, grid.shape[1] // 9
    cells = grid[1:, 1:].reshape(rows, 9, columns, 9).transpose(0, 2, 1, 3)[:, :, :8, :8]
    return (cells.astype(float) * 16 / 255).round().astype(int)


def test_ways_between_images_begin_and_end_at_them(images: Path) -> None:
    subject = subject_of(images)
    for pair, strip in enumerate(pictures(interpolations(subject))):
        (row,) = tiles(strip)
        assert (row[0] == subject.test[2 * pair, 0].numpy()).all()
        assert (row[-1] == subject.test[2 * pair + 1, 0].numpy()).all()
        assert (row[5] != row[0]).any()


def test_neighbours_are_training_images(images: Path) -> None:
    """Each the nearest one, below the sample that it is the nearest of; the closest pair first."""
    subject = subject_of(images)
    above, below = tiles(pictures(nearest_training(subject)[0])[0])
    train, drawn = subject.data.train[:, 0].numpy().astype(int), subject.samples[:, 0].numpy().astype(int)
    distances = []
    for sample, neighbour in zip(above, below, strict=True):
        assert (drawn == sample).all(axis=(1, 2)).any()
        squares = ((train - sample) ** 2).sum(axis=(1, 2))
        assert ((neighbour - sample) ** 2).sum() == squares.min()
        distances.append(squares.min())
    assert distances == sorted(distances)


def test_temperatures_share_their_noise(images: Path) -> None:
    subject = subject_of(images)
    rows = [tiles(one)[0] for one in pictures(temperature_sweep(subject))]
    assert (rows[0] == rows[0][0]).all(), "T = 0 is one image"
    warm = subject.draw(len(rows[0]))[:, 0].numpy()
    assert (rows[5] == warm).all(), "T = 1 are the samples"
    assert len(rows) == 7


def test_lines_of_a_grid() -> None:
    vertical, horizontal = grid_lines(torch.tensor([0.0, -1.0]), torch.tensor([2.0, 1.0]))
    assert (vertical[:, :, 0] == vertical[:, :1, 0]).all()
    assert (horizontal[:, :, 1] == horizontal[:, :1, 1]).all()
    for lines in (vertical, horizontal):
        assert lines.flatten(0, 1).amin(dim=0).tolist() == [0, -1]
        assert lines.flatten(0, 1).amax(dim=0).tolist() == [2, 1]


def test_rows_when_not_told(images: Path, plane: Path) -> None:
    assert [subject_of(run, rows=None).rows for run in (images, plane)] == [200, 10_000]
    assert [len(subject_of(run, rows=None).test) for run in (images, plane)] == [40, 50], "the recipes' own limits"
    assert len(other_data(subject_of(images, rows=30))["noise"]) == 30


@pytest.mark.parametrize("kind", ["images", "plane"])
def test_no_set_has_more_rows_than_asked_for(kind: str, pages: dict[str, str]) -> None:
    table = re.findall(r"<table>.*?</table>", pages[kind], re.DOTALL)[0]
    counts = [int(re.findall(r"<td>(.*?)</td>", row)[-2]) for row in re.findall(r"<tr>(<th>.*?</td>)</tr>", table)]
    assert counts == [40] * len(counts)
    assert len(counts) >= 4


def test_settings_that_cannot_be() -> None:
    for wrong in ({"rows": 1}, {"samples": 0}):
        with pytest.raises(ConfigurationError, match="at least two rows"):
            ReportSettings(**wrong)


def test_the_command_refuses(plane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert main(["report", str(plane), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["report", str(plane), "--out", str(tmp_path / "page.pdf")]) == 2
    assert ".html" in capsys.readouterr().err


def test_json_for_another_program(
    plane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_sections, "SECTIONS", {"End": origin})
    out = tmp_path / "page.html"
    assert main(["report", str(plane), "--rows", "40", "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["report"] == str(out)
    assert f"{values['value']:.3f} ± {values['standard_error']:.3f}" in out.read_text()


def reconstructed(subject: RunData, error: list[float]) -> str:
    """What the figure of a reconstruction with these errors says."""
    none = torch.zeros(len(error), dtype=torch.float64)
    found = Reconstruction(torch.tensor(error, dtype=torch.float64), none, none, none.long(), None)
    one = replace(subject)
    one.__dict__["reconstruction"] = found
    return words(f"<body>{reconstruction(one)}")


def test_rows_that_come_back_exactly_have_no_bar(table: Path) -> None:
    """An error of 0 has no place on a logarithmic axis: `math domain error`, once."""
    subject = subject_of(table)
    said = reconstructed(subject, [0.0, 0.0, 1e-7, 3e-6])
    assert "2 rows are reconstructed exactly and have no bar" in said
    assert "The largest error is 3e-06" in said
    assert "4 rows are reconstructed exactly" in reconstructed(subject, [0.0] * 4)
    assert "The reconstruction of 1 rows is not finite" in reconstructed(subject, [1e-3, math.inf])
    assert "no bar" not in reconstructed(subject, [1e-30, 1e30])


@pytest.mark.parametrize(
    "scales",
    [(1e9, 1e-6), (1e30, 1e-30, 1.0)],
    ids=["two", "three"],
)
def test_small_tables_of_any_scale_have_a_report(scales: tuple[float, ...], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((60, len(scales))) * scales
    np.save(tmp_path / "t.npy", rows.astype(np.float32))
    run = train(tmp_path, "table", f"data.name={tmp_path / 't.npy'}", *TINY_ROWS)
    assert main(["report", str(run), "--out", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text()
    assert "could not be computed" not in page
    assert "Reconstruction." in page


def test_a_test_score_that_is_not_finite_leaves_a_curve(table: Path) -> None:
    subject = replace(subject_of(table))
    scored = subject.test_score
    subject.__dict__["test_score"] = replace(scored, report=replace(scored.report, value=-math.inf))
    assert "Likelihood during training" in likelihood_curve(subject)


def test_no_finite_score_is_said_in_its_section(table: Path) -> None:
    subject = subject_of(table)
    scored = subject.test_score
    none = replace(scored.scores, log_prob=torch.full_like(scored.scores.log_prob, -math.inf))
    with pytest.raises(DomainError, match="no test row has a finite"):
        score_histograms(subject, {"test": replace(scored, scores=none)})


def test_wide_tables_name_what_is_shown(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(table)
    monkeypatch.setattr(tables, "MOST_COLUMNS", 2)
    monkeypatch.setattr(tables, "_PAIRS", 2)
    monkeypatch.setattr(calibration, "MOST_COLUMNS", 2)
    for picture in (tables.marginals(subject), tables.pairs(subject), integral_histograms(subject, subject.test)):
        assert "Shown are the first 2 of 3 columns." in picture
