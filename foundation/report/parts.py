"""Pieces of HTML that every section of the page is made of. Text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.printable import END_OF_ISOLATE, ISOLATE, escape


def section(title: str, lead: str, content: str) -> str:
    """A section under its heading."""
    lead_html = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{lead_html}{content}</section>"


def empty(text: str) -> str:
    """What stands in the place of something that is not there."""
    return f'<div class="card empty">{escape(text)}</div>'


def card(title: str, content: str) -> str:
    """A box with a heading; nothing where there is no content."""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}</div>' if content else ""


def scroll(content: str, label: str, kind: str = "") -> str:
    """What may be wider than a small screen: it scrolls by itself, with the keyboard too.

    Args:
        content: HTML.
        label: what it is, for a screen reader.
        kind: further classes.
    """
    classes = f"scroll {kind}".strip()
    return f'<div class="{classes}" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def name(text: str) -> str:
    """A name that the user's data brought: of any script, without an influence on the text around it."""
    return f"<bdi>{sentence(text)}</bdi>"


def sentence(text: str) -> str:
    """Text with names in it that :func:`foundation.printable.isolated` has set apart."""
    return escape(text).replace(ISOLATE, "<bdi>").replace(END_OF_ISOLATE, "</bdi>")


def picture(uri: str, alternative: str, kind: str = "") -> str:
    """A picture; one of few pixels stays sharp."""
    classes = f' class="{kind}"' if kind else ""
    return f'<img src="{uri}" alt="{escape(alternative)}"{classes}>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], label: str, numbers: Sequence[int] = (), caption: str = ""
) -> str:
    """A table that scrolls by itself.

    Args:
        head: titles of the columns.
        rows: text of the cells.
        label: what it is.
        numbers: columns that are numbers, set to the right.
        caption: above it.
    """
    kinds = [' class="n"' if column in numbers else "" for column in range(len(head))]
    titles = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(kinds, head, strict=True))
    lines = []
    for row in rows:
        # Short settings stay on one line.
        cells = [
            (kind or (' class="t"' if len(cell) < 12 else ""), cell) for kind, cell in zip(kinds, row, strict=True)
        ]
        lines.append("<tr>" + "".join(f"<td{kind}>{name(cell)}</td>" for kind, cell in cells) + "</tr>")
    above = f"<caption>{sentence(caption)}</caption>" if caption else ""
    content = f"<table>{above}<thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return scroll(content, label)
