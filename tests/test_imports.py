"""Which way imports go (design §2), and what `import contraflow` may load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "contraflow"

#: Left may be imported by right; packages of one level may not import each other.
LEVELS = [
    {"errors"},
    {"numerics", "inputs"},
    {"logdet", "lipschitz", "nets", "distributions"},
    {"bijections"},
    {"flow"},
    {"architectures"},
    {"data", "evaluation"},
    {"training"},
    {"recipes"},
    {"report", "reproduction"},
    {"interop", "cli", "web"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
#: The conformance suite may import anything up to flow.
LEVEL["testing"] = LEVEL["flow"] + 0.5
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


def part(module: str) -> str:
    return module.split(".")[1]


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import of ours, at any depth: module level, inside functions, for typing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            found = [f"{base}.{alias.name}" for alias in node.names] if base == "contraflow" else [base]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == "contraflow")


def violations(name: str, source: str) -> list[str]:
    """What `contraflow.<name>` must not import."""
    package = ".".join(["contraflow", *name.split(".")[:-1]])
    mine = name.split(".")[0]
    wrong = []
    for line, imported in imports(ast.parse(source), package):
        if imported == "contraflow":
            wrong.append(f"{name}:{line} imports the whole package")
            continue
        other = part(imported)
        if other not in LEVEL:
            if other != "__version__":
                wrong.append(f"{name}:{line} imports {imported}, which has no place in the order")
        elif other != mine and LEVEL[other] >= LEVEL[mine]:
            wrong.append(f"{name}:{line} imports {imported}")
    return wrong


def files() -> dict[str, Path]:
    """Module name below `contraflow` → file; the package's own `__init__` and `__main__` may import everything."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name not in ("__init__", "__main__"):
            found[name] = path
    return found


@pytest.mark.parametrize("name", files())
def test_imports_go_from_left_to_right(name):
    assert name.split(".")[0] in LEVEL, f"{name} has no place in design §2's order"
    assert violations(name, files()[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("logdet.laws", "from contraflow.lipschitz import LipschitzMLP"),
        ("numerics.jacobian", "def f():\n    import contraflow.flow"),
        ("errors", "from contraflow import flow"),
        ("bijections.residual", "from ..architectures import residual_flow"),
        ("training.loop", "import contraflow"),
        ("data.registry", "if True:\n    from contraflow.evaluation.likelihood import x"),
    ],
)
def test_a_wrong_import_is_found(name, source):
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bijections.residual", "from contraflow.logdet import Exact\nfrom .bijection import Bijection"),
        ("data.image_preprocessing", "from contraflow.bijections import Bijection"),
        ("testing.bijection_laws", "from contraflow.flow import Flow"),
        ("cli.main", "import os\nfrom contraflow.recipes import RECIPES\nfrom contraflow import __version__"),
    ],
)
def test_right_imports_pass(name, source):
    assert violations(name, source) == []


@pytest.mark.parametrize("module", ["contraflow", "contraflow.testing"])
def test_import_needs_torch_and_numpy_alone(module):
    code = f"import sys; sys.modules |= dict.fromkeys({HEAVY}); import {module}"
    # A None in sys.modules makes an import fail, even one that is tried and caught; torch itself tries none of these.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert not {name.split(".")[0] for name in result.stdout.split()} & set(HEAVY)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
