"""The three speed ratios of the README, read from the tables of docs/generated/benchmarks.md.

    python -m experiments.benchmarks.headline

writes the section `speed` of README.md.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.benchmarks.pages import BENCHMARKS, README, fill, section

#: Column → cell, for a row of a table.
Row = dict[str, str]


def main() -> None:
    """Write the section."""
    fill(README, "speed", headline(BENCHMARKS))


def headline(page: Path) -> str:
    """Ratios for training steps, memory, sampling and evaluation, each with hardware and command."""
    lines = [step(section(page, "step")), memory(section(page, "memory")), throughput(section(page, "throughput"))]
    return (
        "Compared with normflows, whose residual blocks are the port of the paper's code, at its best setting:\n\n"
        + "\n".join(lines)
    )


def step(text: str) -> str:
    """The ratio for the fastest of our gradient methods in float32, for each flow."""
    best: dict[str, Row] = {}
    for row in tables(text)[0]:
        if row["what"].startswith("contraflow") and "bfloat16" not in row["what"]:
            best[row["flow"]] = max(best.get(row["flow"], row), row, key=_times_as_fast)
    ratios = sorted(_times_as_fast(row) for row in best.values())
    each = "; ".join(
        f"{flow}: {_times_as_fast(row):.2f} by {row['what'].removeprefix('contraflow, ')}" for flow, row in best.items()
    )
    return f"- **A training step is {ratios[0]:.1f} to {ratios[-1]:.1f} times as fast** ({each}; {source(text)})"


def _times_as_fast(row: Row) -> float:
    return number(row["peer's best / this"])


def memory(text: str) -> str:
    """Ratios of peak memory at the paper's depth."""
    (row,) = (row for row in tables(text)[-1] if row["scheme"].startswith("ratio"))
    everything, activations = number(row["all, MB"]), number(row["activations, MB"])
    return (
        f"- **A step at the paper's depth takes {everything:.2f} of the peer's peak memory, and {activations:.2f} "
        f"of its activations** (3×32×32, 16-16-16 blocks of 512; {source(text)})"
    )


def throughput(text: str) -> str:
    """Ratios of sampling time at the same residual, and of scoring time at the same standard error."""
    sampling, scoring = tables(text)
    samples = {row["flow"]: number(row["ratio (quartiles)"]) for row in sampling if "same residual" in row["sampling"]}
    scores = {}
    for row in scoring:
        if row["log p(x)"] == "normflows":
            same = row["time to the same error, ratio"]
            scores[row["flow"]] = number(row["ratio (quartiles)"] if same == "exact" else same)
    return (
        f"- **To the same error, samples are {_spread(samples)} times as fast, and log p(x) {_spread(scores)} times** "
        f"(samples: {_each(samples)}; log p(x): {_each(scores)}; {source(text)})"
    )


def _spread(ratios: dict[str, float]) -> str:
    return f"{min(ratios.values()):.1f} to {max(ratios.values()):.1f}"


def _each(ratios: dict[str, float]) -> str:
    return ", ".join(f"{flow.split('-')[0]} {ratio:.1f}" for flow, ratio in ratios.items())


def source(text: str) -> str:
    """The hardware and the command that a section begins with."""
    match = re.match(r"(`python -m [^`]+`)(?:: \w+ products)? on ([^;]+);", text)
    if match is None:
        raise ValueError(f"expected a section that begins with its command and hardware, got {text[:80]!r}.")
    command, hardware = match.groups()
    return f"{hardware}; {command}"


def tables(text: str) -> list[list[Row]]:
    """All tables of a Markdown text."""
    all_tables = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        all_tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return all_tables


def number(cell: str) -> float:
    """The number that a cell begins with."""
    match = re.match(r"[-+]?\d+(\.\d+)?", cell)
    if match is None:
        raise ValueError(f"expected a cell that begins with a number, got {cell!r}.")
    return float(match.group())


if __name__ == "__main__":
    main()
