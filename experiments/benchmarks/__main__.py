"""Run one benchmark, or all of them.

    python -m experiments.benchmarks                  list the benchmarks
    python -m experiments.benchmarks step …           run one; the same as python -m experiments.benchmarks.step …
    python -m experiments.benchmarks all [--quick]    run all that write docs/generated/benchmarks.md, in turn
    python -m experiments.benchmarks all --cuda       run all that write its GPU sections, in turn

`--quick` checks within an hour that all commands work; its measurements are too short for the page.
"""

from __future__ import annotations

import ast
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Benchmark that writes docs/generated/benchmarks.md → its arguments for `--quick`, in the order of the page; the
#: README is last.
SECTIONS: dict[str, tuple[str, ...]] = {
    "step": ("--rounds", "2"),
    "memory": (),
    "steadiness": ("--steps", "20"),
    "throughput": ("--rows", "50", "--rounds", "2", "--repeats", "3", "--runs", "runs/quick", "--steps", "20"),
    "quality": ("--seconds", "4", "--tune", "1", "--runs", "runs/quick/quality"),
    "scaling": ("--rounds", "2"),
    "headline": (),
}

_ON_CUDA = ("--device", "cuda")
_STEPS = (*_ON_CUDA, "--cases", "table", "image-512", "mnist", "cifar10", "--rounds", "3")
#: The GPU sections, the most important first.
CUDA: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("step", _STEPS),
    ("memory", _ON_CUDA),
    ("throughput", (*_ON_CUDA, "--rounds", "3", "--repeats", "10")),
    ("steadiness", (*_ON_CUDA, "--steps", "100")),
    ("step", (*_STEPS, "--tf32")),
)


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 if a section failed, 2 if there is no such benchmark."""
    found = measurements()
    match arguments:
        case [] | ["-h" | "--help"]:
            print(__doc__)
            width = max(map(len, found))
            for name, line in found.items():
                print(f"  {name:{width}}  {line}")
            return 0
        case ["all"]:
            return every([(name, ()) for name in SECTIONS])
        case ["all", "--quick"]:
            return every(list(SECTIONS.items()))
        case ["all", "--cuda"]:
            return every(CUDA)
        case [name, *rest] if name in found:
            sys.argv = [f"python -m experiments.benchmarks {name}", *rest]
            runpy.run_module(f"experiments.benchmarks.{name}", run_name="__main__", alter_sys=False)
            return 0
    print(
        f"benchmarks {' '.join(arguments)}: expected all, all --quick, all --cuda or one of {', '.join(found)}.",
        file=sys.stderr,
    )
    return 2


def measurements() -> dict[str, str]:
    """Benchmark → first line of its docstring; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        source = path.read_text()
        if '__name__ == "__main__"' in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return found


def every(sections: Sequence[tuple[str, tuple[str, ...]]]) -> int:
    """Run sections, each in its own process, also after a failure; 1 if one failed."""
    failed = []
    for name, given in sections:
        print(shlex.join(["python", "-m", f"experiments.benchmarks.{name}", *given]), flush=True)
        done = subprocess.run([sys.executable, "-m", f"experiments.benchmarks.{name}", *given], check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
