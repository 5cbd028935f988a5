"""The HTML page: sections of paragraphs, tables and figures, and their template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from contraflow.evaluation.figures import PALETTE


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: plain text.
        blocks: HTML from `paragraph`, `table`, `figure`, `details` and `command`.
    """

    title: str
    blocks: Sequence[str]

    @property
    def anchor(self) -> str:
        """The id of the section in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def text(plain: str) -> str:
    """Plain text as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(plain))


def paragraph(plain: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{text(plain)}</p>"


def figure(picture: str, title: str, caption: str) -> str:
    """A picture, an <svg> or <img> element, with a caption that says what to look for."""
    legend = f"<figcaption><strong>{text(title)}</strong> {text(caption)}</figcaption>"
    return f'<figure><div class="picture">{picture}</div>{legend}</figure>'


def gallery(pictures: Sequence[tuple[str, str]]) -> str:
    """Pictures below each other, each given as a label, shown at its left, and HTML."""
    rows = "".join(f"<tr><th>{text(label)}</th><td>{picture}</td></tr>" for label, picture in pictures)
    return f'<table class="gallery">{rows}</table>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str, caption: str) -> str:
    """A table of plain text; the first cell of each row is its name, and long tables scroll."""
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{text(first)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    legend = f"<figcaption><strong>{text(title)}</strong> {text(caption)}</figcaption>"
    return (
        f'<figure><div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{legend}</figure>"
    )


def details(summary: str, content: str) -> str:
    """Preformatted text that is hidden until the reader clicks on the summary."""
    return f"<details><summary>{text(summary)}</summary><pre>{escape(content)}</pre></details>"


def command(line: str) -> str:
    """A command to copy."""
    return f'<pre class="command">{escape(line)}</pre>'


def render(title: str, about: str, facts: Sequence[tuple[str, str, str]], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title, about: of the run, plain text.
        facts: label, value and remark of each number at the top.
        sections: in the order of the page.
    """
    cards = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}<small>{text(remark)}</small></dd></div>"
        for label, value, remark in facts
    )
    contents = "".join(f'<li><a href="#{section.anchor}">{text(section.title)}</a></li>' for section in sections)
    body = "".join(
        f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>{"".join(section.blocks)}</section>'
        for section in sections
    )
    package = files("contraflow.report")
    light, dark = (
        " ".join(f"--{name}: {colours[shade]};" for name, colours in PALETTE.items()) for shade in ("light", "dark")
    )
    style = Template((package / "page.css").read_text(encoding="utf-8")).substitute(light=light, dark=dark)
    template = Template((package / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=text(title), about=text(about), style=style, facts=cards, contents=contents, sections=body
    )
