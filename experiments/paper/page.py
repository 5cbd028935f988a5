"""What an experiment found, as a page, as JSON, and as a line of the index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contraflow.files import write_json, write_text
from contraflow.logdet.estimators import count
from contraflow.runs.command import command
from contraflow.runs.compare_page import hardware
from experiments.paper.experiment import Experiment, Result
from experiments.paper.plan import Plan

PAPER = "Chen, Behrmann, Duvenaud, Jacobsen, *Residual Flows for Invertible Generative Modeling*, NeurIPS 2019"


def write_page(experiment: Experiment, plan: Plan, result: Result) -> str:
    """Write OUT/NAME.md, NAME.json and the index OUT/README.md; the Markdown is returned.

    Raises:
        OutputError: something could not be written.
    """
    text = markdown(experiment, plan, result)
    write_text(plan.out / f"{plan.name}.md", text)
    write_json(plan.out / f"{plan.name}.json", as_dict(experiment, plan, result))
    write_text(plan.out / "README.md", index(plan.out))
    return text


def markdown(experiment: Experiment, plan: Plan, result: Result) -> str:
    """The page."""
    parts = [
        f"# {plan.name}: {experiment.about}",
        f"Written by `{reproduce_command(plan)}`.",
        "## What the paper says",
        bullets(str(claim) for claim in experiment.claims),
        "## What was run",
        f"**Setting: {plan.budget}.** {_ran(plan)}",
        _cost(plan, result),
        "## What came out",
        bullets(result.findings),
        *map(str, result.tables),
        *(f"![{Path(one.file).stem}]({one.file})\n\n{one.caption}" for one in result.pictures),
        _full(experiment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_dict(experiment: Experiment, plan: Plan, result: Result) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "name": plan.name,
        "about": experiment.about,
        "command": reproduce_command(plan),
        "setting": plan.budget,
        "seeds": plan.seeds,
        "hardware": hardware(),
        "training_seconds": result.training_seconds,
        "findings": list(result.findings),
        "tables": [{"caption": one.caption, "head": one.head, "rows": one.rows} for one in result.tables],
        "values": result.values,
    }


def reproduce_command(plan: Plan) -> str:
    """The command that gives this page."""
    options = [f"--budget {plan.budget}"] if plan.budget != "reduced" else []
    if plan.seeds != plan.setting.seeds:
        options.append(f"--seeds {plan.seeds}")
    return " ".join(["python -m experiments.paper", plan.name, *options])


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def index(out: Path) -> str:
    """The pages of a folder, by name, each with what came out first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"), key=_by_number)]
    rows = [
        f"| [{one['name']}]({one['name']}.md) | {one['about']} | {one['setting']}, {count(one['seeds'], 'seed')} | "
        f"{one['findings'][0].replace('|', '&#124;')} |"
        for one in found
    ]
    return "\n".join(
        [
            "# The paper's experiments",
            "",
            f"{PAPER} ([arXiv:1906.02735](https://arxiv.org/abs/1906.02735)), table by table and figure by figure. "
            "`python -m experiments.paper` lists the names; `python -m experiments.paper NAME --out docs/reproduction` "
            "writes a page here. The reduced settings are for two CPU cores: look whether the *effect* is there, not "
            "at the numbers' size. Every page has the paper's own setting as commands, for a GPU.",
            "",
            "| name | what | setting run | what came out |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _by_number(path: Path) -> list[str | int]:
    """fig2 before fig17."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _ran(plan: Plan) -> str:
    seconds = "" if plan.seconds is None else f" Every run had {plan.seconds:g} seconds of processor time to train in."
    return f"{plan.setting.about}{seconds}"


def _cost(plan: Plan, result: Result) -> str:
    seeds = f"Seeds 0 to {plan.seeds - 1}; " if plan.seeds > 1 else ""
    minutes = f"{result.training_seconds / 60:.0f} minutes of training steps by the clock, "
    trained = f"{minutes}which other work on the machine lengthens; "
    return f"{seeds}{trained if result.training_seconds else ''}{hardware()}."


def _full(experiment: Experiment) -> str:
    if experiment.full is experiment.reduced:
        return ""
    commands = [command(recipe, f"runs/{label}") for label, recipe in experiment.full.recipes().items()]
    block = "\n".join(["```bash", *commands, "```"]) if commands else ""
    return "\n\n".join(part for part in ("## The paper's setting", experiment.full.about, block) if part)
