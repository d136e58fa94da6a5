"""Pieces of HTML.  Whatever comes from a report is escaped where it enters one of these, and only there.

A `Html` is a fragment that is safe; a plain str is text.  A type checker, and
`to_html`, keep them apart.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Html", "anchor", "chip", "details", "paragraph", "row", "section", "strong", "table", "text"]

Html = NewType("Html", str)


def text(words: object) -> Html:
    """Return text, escaped."""
    return Html(escape(str(words)))


def strong(words: object, css_class: str = "") -> Html:
    """Return emphasized text."""
    return Html(f"<strong{_class(css_class)}>{escape(str(words))}</strong>")


def paragraph(words: object, css_class: str = "") -> Html:
    """Return a paragraph of text; nothing if there is none."""
    return Html(f"<p{_class(css_class)}>{escape(str(words))}</p>") if words else Html("")


def chip(words: object, css_class: str) -> Html:
    """Return a word on coloured ground."""
    return Html(f'<span class="chip {css_class}">{escape(str(words))}</span>')


def row(cells: Iterable[Html], css_class: str = "") -> Html:
    """Return a table row whose first cell is its head."""
    head, *others = cells
    boxes = "".join(f"<td>{cell}</td>" for cell in others)
    return Html(f'<tr{_class(css_class)}><th scope="row">{head}</th>{boxes}</tr>')


def table(headings: Sequence[str], rows: Iterable[Html], css_class: str = "figures") -> Html:
    """Return a table that scrolls within its own box where it is too wide."""
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return Html(
        f'<div class="scroll"><table class="{css_class}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def details(summary: str, body: Html) -> Html:
    """Return what opens on a click."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def section(title: str, *body: Html) -> Html:
    """Return a section of the page, with an anchor made from its title; nothing if its body is empty."""
    inner = "".join(body)
    return Html(f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{inner}</section>') if inner else Html("")


def anchor(title: str) -> str:
    """Return an id that is safe in an attribute."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _class(css_class: str) -> str:
    return f' class="{css_class}"' if css_class else ""
