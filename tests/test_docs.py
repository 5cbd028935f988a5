"""What README, CONTRIBUTING and docs say exists: examples run, and names, commands, paths and links are there."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.util
import io
import math
import re
import sys
import types
from pathlib import Path

import pytest
import yaml

import contraflow
from contraflow.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "contraflow"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests" / "reference" / "README.md"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MATHS = sorted((ROOT / "docs" / "maths").glob("*.md"))
#: Never installed, but named by pages.
EXPERIMENTS = [ROOT / "experiments"]

#: A fence ```python no-run is not run: it needs data or time that a reader may not have. Their number is known.
NOT_RUN = 0

#: Back-ticked paths of files that users have, not this repository.
OF_USERS = re.compile(r"~/|runs/|celeba-tfr/|image-net\.org/|\.venv/|RUN/|OUT/|[A-Z]+\.(csv|txt)$|\.txt$")

#: A release of other people's.
OF_OTHERS = {"Imagenet32_train_npz"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def back_ticked(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_fences(text))


# --- examples


def examples() -> list[object]:
    """(code, output shown or None) of every ```python fence, an output standing in a ```text fence right after it."""
    cases = []
    for page in PAGES:
        found = re.findall(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", read(page), re.DOTALL | re.MULTILINE)
        cases += [pytest.param(*pair, id=f"{name(page)}-{number}") for number, pair in enumerate(found, 1)]
    return cases


def agree(shown: str, printed: str) -> bool:
    """The same words; whole numbers the same, others to 10 %, and what is below 1e-4, rounding, to nothing.

    >>> agree("error 5e-06, 3 rows, mean 1.25", "error 1e-06, 3 rows, mean 1.26")
    True
    >>> agree("3 rows", "4 rows"), agree("mean 1.25", "mean 1.52"), agree("mean 1.25", "sum 1.25")
    (False, False, False)
    """
    number = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    if re.sub(number, "#", shown) != re.sub(number, "#", printed):
        return False
    pairs = zip(re.findall(number, shown), re.findall(number, printed), strict=True)
    return all(a == b or _near(a, b) for a, b in pairs)


def _near(shown: str, printed: str) -> bool:
    if shown.lstrip("-").isdigit() and printed.lstrip("-").isdigit():
        return False
    return math.isclose(float(shown), float(printed), rel_tol=0.1, abs_tol=1e-4)


@pytest.mark.parametrize(("code", "output"), examples())
def test_examples_run_and_print_what_is_shown(code, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look there
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), vars(module))
    assert not output or agree(output, printed.getvalue()), printed.getvalue()


def test_few_examples_are_not_run():
    fences = [fence for page in PAGES for fence in re.findall(r"^```(python.*)$", read(page), re.MULTILINE)]
    assert set(fences) <= {"python", "python no-run"}
    assert fences.count("python no-run") == NOT_RUN


# --- names


def exists(dotted: str) -> bool:
    """Whether `contraflow.a.b`, or `cf.a.b`, can be had by import and attributes."""
    found, path = contraflow, "contraflow"
    for part in dotted.split(".")[1:]:
        path = f"{path}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, type(contraflow)) and hasattr(found, "__path__") and importlib.util.find_spec(path):
            found = importlib.import_module(path)
        else:
            return False
    return True


def missing_names(text: str) -> list[str]:
    return [one for one in re.findall(r"(?<![\w./-])(?:contraflow|cf)(?:\.[A-Za-z_]\w*)+", text) if not exists(one)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_dotted_names_of_pages_exist(page):
    assert missing_names(read(page)) == []


@pytest.mark.parametrize("package", [SOURCE, *EXPERIMENTS], ids=name)
def test_dotted_names_of_the_source_and_its_docstrings_exist(package):
    missing = {name(file): missing_names(read(file)) for file in sorted(package.rglob("*.py"))}
    assert {file: names for file, names in missing.items() if names} == {}


def test_a_name_that_does_not_exist_is_found():
    assert missing_names("`contraflow.flow.Flow`, `cf.Exact()`, contraflow.logdet.laws") == []
    text = "`contraflow.flow.Flows`, `cf.Exactly()`, contraflow.utils.a, contraflow.Flow.logprob"
    assert missing_names(text) == [
        "contraflow.flow.Flows",
        "cf.Exactly",
        "contraflow.utils.a",
        "contraflow.Flow.logprob",
    ]


def words(files: list[Path]) -> set[str]:
    """Every name and every string of Python files."""
    found = {*dir(builtins)}
    for file in files:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg | ast.keyword):
                found.add(str(node.arg))
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    packages = [SOURCE, *EXPERIMENTS, ROOT / "tests"]
    return words([file for package in packages for file in package.rglob("*.py")])


@pytest.mark.parametrize("page", [page for page in PAGES if "tests" not in page.parts[len(ROOT.parts) :]], ids=name)
def test_back_ticked_identifiers_occur_in_the_source(page, known):
    said = [re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(.*\))?", one) for one in back_ticked(read(page))]
    identifiers = {match[1] for match in said if match and not is_path(match[1]) and "." not in match[1]}
    assert sorted(identifiers - known - OF_OTHERS) == []


@pytest.mark.parametrize("page", MATHS, ids=name)
def test_maths_names_what_the_file_beside_it_defines(page):
    """Of "[`file`](path) `a`, `B.c`": a, B and c stand in that file, or in its package where they are inherited."""
    for target, names in re.findall(r"\[`[^`]+`\]\(([^)]+)\)((?:,? `[^`]+`)+)", read(page)):
        file = (page.parent / target).resolve()
        if not file.is_relative_to(SOURCE):
            continue
        said = [part for one in re.findall(r"`\.?([\w.]+)[^`]*`", names) for part in one.split(".")]
        defined = words([file])
        missing = [part for part in said if part not in defined]
        assert missing == [], f"{name(page)}: not in {target}"


# --- commands


def missing_commands(text: str) -> list[str]:
    """`contraflow WORD` in back ticks and fences of bash, and `python -m MODULE`, that are not there."""
    lines = [
        *back_ticked(text),
        *"\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines(),
    ]
    missing = []
    for line in lines:
        if match := re.match(r"(?:\S+/)?contraflow ([a-z]\w*)", line):
            found = match[1] in (*COMMANDS, "completion")
        elif match := re.match(r"(?:\S+/)?python -m ([\w.]+)", line):
            file = ROOT.joinpath(*match[1].split("."))
            found = file.with_suffix(".py").is_file() or (file / "__main__.py").is_file() or match[1] == "pytest"
        elif match := re.match(r"\./(\S+)", line):
            found = (ROOT / match[1]).is_file()
        else:
            continue
        if not found:
            missing.append(match[0])
    return missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    assert missing_commands(read(page)) == []


def test_a_command_that_does_not_exist_is_found():
    text = (
        "`contraflow fly RUN`, `contraflow train digits`\n\n```bash\n./demo\n./dance\npython -m benchmarkz.step\n```\n"
    )
    assert missing_commands(text) == ["contraflow fly", "./dance", "python -m benchmarkz.step"]


# --- paths


#: Not paths.
_FRACTIONS = {"1/D"}


def is_path(said: str) -> bool:
    return re.fullmatch(r"[\w.~/…-]*/[\w.~/…*-]*|[\w.-]+\.(?:py|md|html|toml|cff)", said) is not None


def missing_paths(page: Path, text: str) -> list[str]:
    """Back-ticked paths that are neither below the root, nor beside the page, nor in src/contraflow or docs; of a name
    alone, those that no file of the tests has."""
    folders = [ROOT, page.parent, SOURCE, ROOT / "docs", *sorted({file.parent for file in TESTS})]
    said = [one for one in back_ticked(text) if is_path(one) and not OF_USERS.search(one) and one not in _FRACTIONS]
    return [one for one in said if not any((folder / one).exists() for folder in folders)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_back_ticked_paths_exist(page):
    assert missing_paths(page, read(page)) == []


def test_a_path_that_does_not_exist_is_found():
    text = "`files.py`, `lipschitz/`, `src/contraflow/files.py`, `docs/nowhere.md`, `utils/a.py`, `shared/reference/`"
    assert missing_paths(ROOT / "README.md", text) == ["docs/nowhere.md", "utils/a.py", "shared/reference/"]


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have."""
    headings = re.findall(r"^#+ (.*)$", without_fences(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_of_the_repository(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(read(page))):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


def test_nothing_points_outside_the_repository():
    files = [*PAGES, *(file for folder in (SOURCE, *EXPERIMENTS, ROOT / "tests") for file in folder.rglob("*.py"))]
    outside = re.compile(
        r"\.\./shared|shared/(?:data|reference|paper|design|prototypes)|(?<![\w.])/(?:work|root|home)/"
    )
    found = [name(file) for file in files if file != Path(__file__).resolve() and outside.search(read(file))]
    assert found == []


def test_the_citation_is_of_the_paper():
    """The keys that version 1.2.0 of the Citation File Format requires, and the reference."""
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Chen", "Behrmann", "Duvenaud", "Jacobsen"]
    assert paper["url"] in read(ROOT / "README.md")
