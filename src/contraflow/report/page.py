"""The page: sections of paragraphs, tables and figures, put into the one template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from contraflow.report.drawing import PALETTE


@dataclass(frozen=True)
class Section:
    """One heading of the contents.

    Attributes:
        title: plain text.
        blocks: HTML of `paragraph`, `table`, `figure`, `details`.
    """

    title: str
    blocks: Sequence[str]

    @property
    def anchor(self) -> str:
        """The title as the name of a place in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def text(words: str) -> str:
    """Plain text as HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(words))


def paragraph(words: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def figure(picture: str, title: str, caption: str) -> str:
    """A picture, SVG or an image, with what to look for in it."""
    legend = f"<figcaption><strong>{text(title)}</strong> {text(caption)}</figcaption>"
    return f'<figure><div class="picture">{picture}</div>{legend}</figure>'


def gallery(pictures: Sequence[tuple[str, str]]) -> str:
    """Pictures below each other, each with a few words at its left: label and HTML."""
    rows = "".join(f"<tr><th>{text(label)}</th><td>{picture}</td></tr>" for label, picture in pictures)
    return f'<table class="gallery">{rows}</table>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str, caption: str) -> str:
    """Rows of plain text, the first cell of each its name; long ones scroll."""
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
    """Text to unfold, as it is."""
    return f"<details><summary>{text(summary)}</summary><pre>{escape(content)}</pre></details>"


def command(words: str) -> str:
    """A command to copy."""
    return f'<pre class="command">{escape(words)}</pre>'


def render(title: str, about: str, facts: Sequence[tuple[str, str, str]], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title, about: of the run, plain text.
        facts: label, value and remark of the figures at the top.
        sections: in order.
    """
    cards = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}<small>{text(remark)}</small></dd></div>"
        for label, value, remark in facts
    )
    contents = "".join(f'<li><a href="#{one.anchor}">{text(one.title)}</a></li>' for one in sections)
    body = "".join(
        f'<section id="{one.anchor}"><h2>{text(one.title)}</h2>{"".join(one.blocks)}</section>' for one in sections
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
