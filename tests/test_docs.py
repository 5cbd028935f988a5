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
from functools import cache
from pathlib import Path

import pytest
import yaml

import contraflow
from contraflow.cli.main import COMMANDS
from contraflow.runs import RECIPES

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "contraflow"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests" / "reference" / "README.md"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MATHS = sorted((ROOT / "docs" / "maths").glob("*.md"))
TWO_COMMANDS = {"demo", "check"}
#: Never installed, but named by pages.
EXPERIMENTS = [ROOT / "experiments"]

#: The info strings of fences of Python. A fence ``python continued`` continues the one above it on the page.
STARTS, CONTINUES = "python", "python continued"

#: Back-ticked paths of files that users have, not this repository.
OF_USERS = re.compile(r"~/|runs/|celeba-tfr/|image-net\.org/|\.venv/|RUN/|OUT/|[A-Z]+\.(csv|txt)$|\.txt$")

#: Options of `python -m experiments…` and of pytest, which stand alone in back ticks.
OF_EXPERIMENTS = {"--quick", "--cuda", "--tf32", "--compiled", "--run"}

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


#: An example: its code, and the output that the page shows right after it.
Part = tuple[str, str]


def python_fences(text: str) -> list[tuple[str, str, str]]:
    """Info string, code and output shown ("" where none is) of every fence that begins with ``python``."""
    return re.findall(r"^```(python.*)\n((?:.*\n)*?)```(?:\n\n```text\n((?:.*\n)*?)```)?", text, re.MULTILINE)


def examples() -> list[object]:
    """The examples of all pages; each is a fence with those that continue it."""
    cases = []
    for page in PAGES:
        parts: list[list[Part]] = []
        for info, code, output in python_fences(read(page)):
            if info == STARTS:
                parts.append([])
            parts[-1].append((code, output))
        cases += [pytest.param(example, id=f"{name(page)}-{number}") for number, example in enumerate(parts, 1)]
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


@pytest.mark.parametrize("example", examples())
def test_examples_run_and_print_what_is_shown(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look there
    for code, output in example:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "example", "exec"), vars(module))
        assert not output or agree(output, printed.getvalue()), printed.getvalue()


def test_every_fence_of_python_is_run():
    assert {info for page in PAGES for info, _, _ in python_fences(read(page))} == {STARTS, CONTINUES}
    text = "```python\na = 1\n```\n\n```text\n1\n```\n\n```python continued\nprint(a)\n```\n"
    assert python_fences(text) == [(STARTS, "a = 1\n", "1\n"), (CONTINUES, "print(a)\n", "")]


# --- names


def exists(dotted: str) -> bool:
    """Whether import and attributes lead to `contraflow.a.b`, or `cf.a.b`."""
    value, path = contraflow, "contraflow"
    for part in dotted.split(".")[1:]:
        path = f"{path}.{part}"
        if hasattr(value, part):
            value = getattr(value, part)
        elif isinstance(value, type(contraflow)) and hasattr(value, "__path__") and importlib.util.find_spec(path):
            value = importlib.import_module(path)
        else:
            return False
    return True


def missing_names(text: str) -> list[str]:
    dotted = re.findall(r"(?<![\w./-])(?:contraflow|cf)(?:\.[A-Za-z_]\w*)+", text)
    return [name for name in dotted if not exists(name)]


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
    names = {*dir(builtins)}
    for file in files:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.arg | ast.keyword):
                names.add(str(node.arg))
            elif isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The names, strings and modules of library and experiments, and what the modules of tests define."""
    sources = [file for package in (SOURCE, *EXPERIMENTS) for file in package.rglob("*.py")]
    modules = {part for file in sources for part in file.relative_to(ROOT).with_suffix("").parts}
    return words(sources) | modules | {"cf"} | {name for file in TESTS for name in defined_at_the_top(file)}


def defined_at_the_top(file: Path) -> set[str]:
    """The functions, classes and variables of a module, and the attributes that it uses, with pytest's markers."""
    tree = ast.parse(read(file))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return (
        {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        | {target.id for target in targets if isinstance(target, ast.Name)}
        | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    )


def missing_identifiers(text: str, known: set[str]) -> list[str]:
    """Back-ticked `name`, `name.name` and `name(…)` with a part that no source has."""
    matches = [re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(.*\))?", said) for said in back_ticked(text)]
    identifiers = {match[1] for match in matches if match and not is_path(match[1]) and not is_file(match[1])}
    return sorted(dotted for dotted in identifiers - OF_OTHERS if not known.issuperset(dotted.split(".")))


@pytest.mark.parametrize("page", [page for page in PAGES if "tests" not in page.parts[len(ROOT.parts) :]], ids=name)
def test_back_ticked_identifiers_occur_in_the_source(page, known):
    assert missing_identifiers(read(page), known) == []


def test_an_identifier_that_does_not_occur_is_found(known):
    text = "`Flow.log_prob`, `Flow.logprob`, `certify()`, `certifies()`, `series_dtype`, `series_type`, `run.json`"
    assert missing_identifiers(text, known) == ["Flow.logprob", "certifies", "series_type"]


@pytest.mark.parametrize("page", MATHS, ids=name)
def test_maths_names_what_the_file_beside_it_defines(page):
    """Of "[`file`](path) `a`, `B.c`": a, B and c stand in that file, or in its package where they are inherited."""
    for target, names in re.findall(r"\[`[^`]+`\]\(([^)]+)\)((?:,? `[^`]+`)+)", read(page)):
        file = (page.parent / target).resolve()
        if not file.is_relative_to(SOURCE):
            continue
        said = [part for dotted in re.findall(r"`\.?([\w.]+)[^`]*`", names) for part in dotted.split(".")]
        defined = words([file])
        missing = [part for part in said if part not in defined]
        assert missing == [], f"{name(page)}: not in {target}"


# --- commands


def command_lines(text: str) -> list[str]:
    """What a page has in back ticks, and the lines of its fences of bash, those that end in a backslash joined."""
    fences = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return [*back_ticked(text), *re.sub(r"\\\n\s*", " ", fences).splitlines()]


@cache
def options(command: str) -> frozenset[str]:
    """The options of `contraflow COMMAND`, with dashes for underscores; those of `train` are its settings too."""
    actions = COMMANDS[command].make_parser(command)._actions
    return frozenset(option.replace("_", "-") for action in actions for option in action.option_strings)


def missing_options(command: str, words: list[str]) -> list[str]:
    """Of the words of a command those that are options or settings and that it does not have, and unknown recipes."""
    missing = []
    if command == "train" and words and re.fullmatch(r"[a-z]\w*", words[0]) and words[0] not in RECIPES:
        missing.append(words[0])
    for word in words:
        option = word.split("=")[0]
        if command == "train" and re.match(r"[a-z_.]+=", word):
            option = f"--{option}"
        if not re.match(r"--\w", option) or option.startswith("--architecture.options."):
            continue
        if option.replace("_", "-") not in options(command):
            missing.append(word)
    return missing


def missing_commands(text: str) -> list[str]:
    """`contraflow COMMAND …` and `python -m MODULE` that are not there, and options and settings that are not."""
    missing = []
    for line in command_lines(text):
        if match := re.match(r"(?:\S+/)?contraflow ([a-z]\w*)(.*)", line):
            is_command = match[1] in COMMANDS
            missing += missing_options(match[1], match[2].split()) if is_command else [f"contraflow {match[1]}"]
        elif match := re.match(r"(?:\S+/)?python -m ([\w.]+)", line):
            files = [folder.joinpath(*match[1].split(".")) for folder in (ROOT, ROOT / "src")]
            if match[1] != "pytest" and not any(
                file.with_suffix(".py").is_file() or (file / "__main__.py").is_file() for file in files
            ):
                missing.append(match[0])
        elif (match := re.match(r"\./(\S+)", line)) and not (ROOT / match[1]).is_file():
            missing.append(match[0])
        elif match := re.fullmatch(r"(--[a-z][\w-]+)(?:[ =].*)?", line):
            if not any(match[1].replace("_", "-") in options(command) for command in COMMANDS):
                missing += [match[1]] if match[1] not in OF_EXPERIMENTS else []
        elif match := re.fullmatch(r"((?:training|data|preprocessing|estimator|objective|evaluation)\.\w+)=.*", line):
            missing += [match[1]] if f"--{match[1]}".replace("_", "-") not in options("train") else []
    return missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    assert missing_commands(read(page)) == []


def test_a_command_that_does_not_exist_is_found():
    text = (
        "`contraflow fly RUN`, `contraflow train digits`, `contraflow train digit`, `--draw`, `--target-error 0.1`\n\n"
        "```bash\n./demo\n./dance\npython -m benchmarkz.step\ncontraflow sample run --nn 3 \\\n    --label 2\n"
        "contraflow train digits training.step=3 training.steps=3\n```\n\n`data.colums=[a]`, `data.columns=[a]`\n"
    )
    assert missing_commands(text) == [
        "contraflow fly",
        "digit",
        "--draw",
        "data.colums",
        "./dance",
        "python -m benchmarkz.step",
        "--nn",
        "training.step=3",
    ]


# --- paths


#: Not paths.
_FRACTIONS = {"1/D"}


def is_path(said: str) -> bool:
    return re.fullmatch(r"[\w.~/…-]*/[\w.~/…*-]*|[\w.-]+\.(?:py|md|html|toml|cff)", said) is not None


def is_file(said: str) -> bool:
    """Whether it is the name of a file of users' or data sets', by its ending."""
    endings = "csv|png|json|jsonl|npy|npz|txt|gz|mat|tar|pt|pth|pickle|hdf5|safetensors|yaml|html"
    return re.search(rf"\.({endings})$", said) is not None


def missing_paths(page: Path, text: str) -> list[str]:
    """Back-ticked paths that are neither below the root, nor beside the page, nor in src/contraflow or docs; of a name
    alone, those that no file of the tests has."""
    folders = [ROOT, page.parent, SOURCE, ROOT / "docs", *sorted({file.parent for file in TESTS})]
    paths = [
        said for said in back_ticked(text) if is_path(said) and not OF_USERS.search(said) and said not in _FRACTIONS
    ]
    return [path for path in paths if not any((folder / path).exists() for folder in folders)]


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


OUTSIDE = re.compile(
    r"\.\./shared|shared/(?:data|reference|paper|design|prototypes)|(?<![\w.])/(?:work|root|home|tmp)/"
)


def test_nothing_points_outside_the_repository():
    """Neither pages nor reports, figures' data, scripts, settings and sources."""
    folders = (SOURCE, *EXPERIMENTS, ROOT / "tests", ROOT / "docs", ROOT / "scripts")
    kinds = {".py", ".md", ".json", ".html", ".css", ".sh", ".toml", ".txt", ".cff", ".svg"}
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in kinds]
    files += [file for file in ROOT.iterdir() if file.is_file() and (file.suffix in kinds or file.name in TWO_COMMANDS)]
    outside = [name(file) for file in files if file != Path(__file__).resolve() and OUTSIDE.search(read(file))]
    assert outside == []


def test_a_path_that_points_outside_is_found():
    assert all(OUTSIDE.search(text) for text in ("see ../shared/style.md", "`/home/me/run`", "(/tmp/x.json)"))
    assert not OUTSIDE.search("https://image-net.org/small, docs/tmp/x, ~/.cache/contraflow, /dev/shm")


def test_the_citation_is_of_the_paper():
    """The keys that version 1.2.0 of the Citation File Format requires, and the reference."""
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Chen", "Behrmann", "Duvenaud", "Jacobsen"]
    assert paper["url"] in read(ROOT / "README.md")
