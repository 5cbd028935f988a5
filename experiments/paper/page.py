"""The result of an experiment as a page, as JSON, and as a line of the index."""

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
from experiments.paper.published import PAPER


def write_page(experiment: Experiment, plan: Plan, result: Result) -> str:
    """Write OUT/NAME.md, NAME.json and the index OUT/README.md, and return the Markdown.

    Raises:
        OutputError: a file could not be written.
    """
    text = markdown(experiment, plan, result)
    write_text(plan.out / f"{plan.name}.md", text)
    write_json(plan.out / f"{plan.name}.json", as_dict(experiment, plan, result))
    write_text(plan.out / "README.md", index(plan.out))
    return text


def markdown(experiment: Experiment, plan: Plan, result: Result) -> str:
    """The page in Markdown."""
    parts = [
        f"# {plan.name}: {experiment.about}",
        f"Written by `{reproduce_command(plan)}`.",
        "## Published",
        bullets(map(str, experiment.claims)),
        *map(str, experiment.published),
        "## Setting",
        f"**{plan.budget.capitalize()}.** {_setting(plan)}",
        _cost(plan, result),
        "## Results",
        bullets(result.findings),
        *map(str, result.tables),
        *(f"![{Path(picture.file).stem}]({picture.file})\n\n{picture.caption}" for picture in result.pictures),
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
        "tables": [{"caption": table.caption, "head": table.head, "rows": table.rows} for table in result.tables],
        "values": result.values,
    }


def reproduce_command(plan: Plan) -> str:
    """The command that writes this page."""
    options = [f"--budget {plan.budget}"] if plan.budget != "reduced" else []
    if plan.seeds != plan.setting.seeds:
        options.append(f"--seeds {plan.seeds}")
    return " ".join(["python -m experiments.paper", plan.name, *options])


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def index(out: Path) -> str:
    """The index of the pages in a folder, each with its first finding."""
    pages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"), key=_by_number)]
    rows = [
        f"| [{page['name']}]({page['name']}.md) | {page['about']} | {page['setting']}, {count(page['seeds'], 'seed')} "
        f"| {page['findings'][0].replace('|', '&#124;')} |"
        for page in pages
    ]
    return "\n".join(
        [
            "# The paper's experiments",
            "",
            f"{PAPER} ([arXiv:1906.02735](https://arxiv.org/abs/1906.02735)), table by table and figure by figure. "
            "`python -m experiments.paper` lists the experiments, and `python -m experiments.paper NAME --out "
            "docs/generated/reproduction` writes a page here. The reduced settings are for a CPU: they show whether an "
            "*effect* of the paper is reproduced, and their numbers are not comparable with the published ones. Each "
            "page lists the commands of the paper's own setting, for a GPU.",
            "",
            "| name | experiment | setting | first result |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _by_number(path: Path) -> list[str | int]:
    """The key that sorts fig2 before fig17."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _setting(plan: Plan) -> str:
    seconds = (
        "" if plan.seconds is None else f" The training steps of each run took {plan.seconds:g} s of processor time."
    )
    return f"{plan.setting.about}{seconds}"


def _cost(plan: Plan, result: Result) -> str:
    seeds = f"Seeds 0 to {plan.seeds - 1}; " if plan.seeds > 1 else ""
    minutes = (
        f"{result.training_seconds / 60:.0f} minutes of training steps in total (wall clock, on a shared machine); "
    )
    return f"{seeds}{minutes if result.training_seconds else ''}{hardware()}."


def _full(experiment: Experiment) -> str:
    if experiment.full is experiment.reduced:
        return ""
    commands = [command(recipe, f"runs/{label}") for label, recipe in experiment.full.recipes().items()]
    block = "\n".join(["```bash", *commands, "```"]) if commands else ""
    return "\n\n".join(part for part in ("## The paper's setting", experiment.full.about, block) if part)
