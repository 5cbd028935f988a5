"""The order of imports between the parts of the package, without circles, and what `import contraflow` may load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "contraflow"

#: Parts may import parts of earlier levels, but not parts of their own level.
LIBRARY = [
    {"errors", "waiting"},
    {"numerics", "inputs", "files"},
    {"logdet", "lipschitz", "nets", "distributions"},
    {"bijections"},
    {"preprocessing"},
    {"flow"},
    {"architectures"},
]
LABORATORY = [
    {"data", "evaluation"},
    {"training"},
    {"runs"},
    {"report"},
    {"interop", "cli"},
]
#: Never installed.
EXPERIMENTS = [{"experiments"}]
LEVEL = {name: level for level, names in enumerate(LIBRARY + LABORATORY + EXPERIMENTS) for name in names}
#: The conformance suite, of the library, may import anything up to flow.
LEVEL["testing"] = LEVEL["flow"] + 0.5
LIBRARY_PARTS = set().union(*LIBRARY) | {"testing"}

#: What a library file may import, and what only inside functions: the extras of the library.
NEEDED, OPTIONAL = {"torch", "numpy"}, {"scipy", "torchdiffeq", "zuko"}
HEAVY = [
    "sklearn",
    "scipy",
    "matplotlib",
    "rich",
    "jsonargparse",
    "safetensors",
    "PIL",
    "pyarrow",
    "yaml",
    "torchdiffeq",
    "zuko",
]


def modules() -> dict[str, Path]:
    """Dotted name → file, of everything in the three tiers; a package has the name of its `__init__`."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    names = {}
    for path in sorted(files):
        parts = path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def part(module: str) -> str:
    """The part of the package that a module belongs to, or `experiments`; empty for the top of the package."""
    top, *below = module.split(".")
    return top if top == "experiments" else below[0] if below else ""


def imports(source: str, name: str, known: Mapping[str, object], package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and module of every import of contraflow, also inside functions and for typing."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + package]
                base = ".".join([*above, *([base] if base else [])])
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            imported = [one if one in known else base for one in submodules]
        else:
            continue
        ours = (one for one in dict.fromkeys(imported) if one.split(".")[0] in ("contraflow", "experiments"))
        yield from ((node.lineno, one) for one in ours)


def violations(name: str, source: str, known: Mapping[str, object] = MODULES, package: bool = False) -> list[str]:
    """The imports of a module that violate the order."""
    mine, wrong = part(name), []
    for line, imported in imports(source, name, known, package):
        other = part(imported)
        if not other:
            if mine != "experiments" and "import __version__" not in source.splitlines()[line - 1]:
                wrong.append(f"{name}:{line} imports the whole package")
        elif other not in LEVEL:
            wrong.append(f"{name}:{line} imports {imported}, which has no place in the order")
        elif other != mine and LEVEL[other] >= LEVEL[mine]:
            wrong.append(f"{name}:{line} imports {imported}")
    return wrong


def foreign(source: str) -> list[str]:
    """The imports of a library file that `pip install contraflow` does not install; functions may import extras."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        allowed = NEEDED | {"contraflow"} | set(sys.stdlib_module_names) | (OPTIONAL if id(node) in inside else set())
        wrong += [one for one in names if one.split(".")[0] not in allowed]
    return wrong


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import each other, directly or through other modules."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        ahead = set(graph.get(start, ()))
        while ahead:
            module = ahead.pop()
            found.add(module)
            ahead |= set(graph.get(module, ())) - found
        return found

    reach = {module: reached(module) for module in graph}
    together = {frozenset(other for other in reach[one] if one in reach.get(other, ())) for one in graph}
    return sorted((set(one) for one in together if one), key=sorted)


def graph_of(sources: Mapping[str, str], packages: set[str] = frozenset()) -> dict[str, set[str]]:
    """Module → the modules that it names in its imports, those for typing too."""
    return {
        name: {module for _, module in imports(source, name, sources, name in packages)}
        for name, source in sources.items()
    }


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) not in ("", "__main__")])
def test_imports_go_from_left_to_right(name: str) -> None:
    assert part(name) in LEVEL, f"{name} has no place in design §2's order"
    source = MODULES[name].read_text(encoding="utf-8")
    assert violations(name, source, package=MODULES[name].stem == "__init__") == []
    if part(name) in LIBRARY_PARTS:
        assert foreign(source) == []


def test_figures_are_made_in_one_place() -> None:
    """Style, saving and formats of pictures are those of one module; the others draw on the axes that it gives them."""
    importing = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "matplotlib")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "matplotlib" for alias in node.names))
    }
    assert importing == {"contraflow.evaluation.figures"}


def test_there_are_no_circles() -> None:
    sources = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    packages = {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert circles(graph_of(sources, packages)) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("contraflow.logdet.laws", "from contraflow.lipschitz import LipschitzMLP"),
        ("contraflow.numerics.jacobian", "def f():\n    import contraflow.flow"),
        ("contraflow.errors", "from contraflow import flow"),
        ("contraflow.bijections.residual", "from ..architectures import residual_flow"),
        ("contraflow.training.loop", "import contraflow"),
        ("contraflow.data.registry", "if True:\n    from contraflow.evaluation.likelihood import x"),
        ("contraflow.preprocessing.images", "from contraflow.data import Dataset"),
        ("contraflow.architectures.glow", "from contraflow.training import train"),
        ("contraflow.runs.compare", "from experiments.paper import EXPERIMENTS"),
        ("contraflow.cli.main", "if TYPE_CHECKING:\n    import experiments.paper.plan"),
        ("contraflow.cli.main", "from contraflow.recipes import RECIPES"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("contraflow.bijections.residual", "from contraflow.logdet import Exact\nfrom .bijection import Bijection"),
        ("contraflow.preprocessing.images", "from contraflow.bijections import Bijection"),
        ("contraflow.testing.bijection_laws", "from contraflow.flow import Flow"),
        ("contraflow.cli.main", "import os\nfrom contraflow.runs import RECIPES\nfrom contraflow import __version__"),
        ("experiments.benchmarks.step", "import contraflow.flow\nfrom experiments.paper import EXPERIMENTS"),
    ],
)
def test_right_imports_pass(name: str, source: str) -> None:
    assert violations(name, source) == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import torch\nimport numpy as np\nimport math\nfrom contraflow.errors import x", []),
        ("import torchdiffeq", ["torchdiffeq"]),
        ("def f():\n    from scipy.stats import t", []),
        ("def f():\n    from rich.console import Console", ["rich.console"]),
        ("from PIL import Image", ["PIL"]),
    ],
)
def test_dependencies_of_library_files(source: str, wrong: list[str]) -> None:
    assert foreign(source) == wrong


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"contraflow.a": "from contraflow.b import x", "contraflow.b": "import contraflow.c", "contraflow.c": ""}, []),
        (
            {
                "contraflow.a": "from contraflow.b import x",
                "contraflow.b": "def f():\n    import contraflow.c",
                "contraflow.c": "if TYPE_CHECKING:\n    from contraflow import a",
                "contraflow.d": "from contraflow.a import x",
            },
            [{"contraflow.a", "contraflow.b", "contraflow.c"}],
        ),
        ({"contraflow.p": "from contraflow.p.a import x", "contraflow.p.a": "from contraflow.p import y"},
         [{"contraflow.p", "contraflow.p.a"}]),
        ({"contraflow.p": "", "contraflow.p.a": "from . import b", "contraflow.p.b": "from .a import x"},
         [{"contraflow.p.a", "contraflow.p.b"}]),
    ],
)  # fmt: skip
def test_a_circle_is_found(sources: dict[str, str], found: list[set[str]]) -> None:
    assert circles(graph_of(sources)) == found


@pytest.mark.parametrize("module", ["contraflow", "contraflow.testing", "contraflow.preprocessing"])
def test_import_needs_torch_and_numpy_alone(module: str) -> None:
    code = f"import sys; sys.modules |= dict.fromkeys({HEAVY}); import {module}"
    # A None in sys.modules makes an import fail, even one that is tried and caught; torch itself tries none of these.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert not {name.split(".")[0] for name in result.stdout.split()} & set(HEAVY)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
