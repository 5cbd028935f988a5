"""Files from elsewhere cannot execute anything: what could run code stands nowhere in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "contraflow"
#: Calls that run what a file says, or write where an archive says.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load",
    "numpy.load", "np.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "shelve.open",
    "marshal.loads", "shutil.unpack_archive", "torch.hub.load", "torch.jit.load", "runpy.run_path",
}  # fmt: skip
METHODS = {"extractall", "extract"}
MODULES = {"subprocess", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}
#: The reader of CIFAR-10's pickles, which resolves four names to stand-ins of its own.
MAY_PICKLE = "data/formats/restricted_pickle.py"


def offences(source: str, name: str = "") -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if (called in FORBIDDEN and not weights_only(node)) or (
                isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
            ):
                found.append(called)
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        banned = MODULES | ({"pickle", "pickletools"} if name != MAY_PICKLE else set())
        found += [one for one in names if one.split(".")[0] in banned]
    return found


def weights_only(call: ast.Call) -> bool:
    """Whether it is torch's reader in the mode that makes tensors and plain containers and refuses the rest."""
    mode = [one.value for one in call.keywords if one.arg == "weights_only"]
    return ast.unparse(call.func) == "torch.load" and [ast.unparse(one) for one in mode] == ["True"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_of_the_package_can(path: Path) -> None:
    assert offences(path.read_text(), path.relative_to(PACKAGE).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, weights_only=True)",
     "import pickle", "from pickle import loads", "x = eval(s)", "archive.extractall(p)",
     "def f():\n    import subprocess", "np.load(p)", "yaml.load(f, Loader=L)"],
)  # fmt: skip
def test_the_test_sees(source: str) -> None:
    assert offences(source)
