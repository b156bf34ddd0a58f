"""Text that comes from files, made safe for a terminal: it can neither move the cursor, nor hide, nor colour."""

from __future__ import annotations

import html
import time
from unicodedata import bidirectional

ISOLATE, END_OF_ISOLATE = "\u2068", "\u2069"
"""FIRST STRONG ISOLATE and POP DIRECTIONAL ISOLATE: what stands between them does not turn what stands around it."""

_FROM_RIGHT = ("R", "AL", "AN")
_JOINERS = ("\u200c", "\u200d")
"""Are no visible signs, and names need them: emoji of several signs, Persian and the scripts of India."""


def printable(text: object, *, lines: bool = False, isolates: bool = False) -> str:
    r"""The text with every character escaped that is no visible one, as ``repr`` does it (``\x1b``, ``\u202e``).

    Those are control characters (among them what begins an ANSI sequence), signs that turn the direction of writing,
    and halves of surrogate pairs, which cannot be written at all.

    Args:
        text: of any kind; what is no text is turned into it.
        lines: keep line breaks, for a message of several lines.
        isolates: keep the signs of :func:`isolated`, where each that begins one is followed by its end.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    kept: tuple[str, ...] = ("\n",) if lines else ()
    if isolates and _closed(whole):
        kept += (ISOLATE, END_OF_ISOLATE)
    return "".join(
        sign if sign.isprintable() or sign in kept else sign.encode("unicode_escape").decode() for sign in whole
    )


def isolated(text: object) -> str:
    """A printable name for the middle of a sentence or a table, whatever script it is written in.

    Numbers behind a name that is written from right to left would be read as part of it: 45.7 could stand before 3.
    Such a name is put between the signs that Unicode has for this (UAX 9); all others stay as they are.
    """
    shown = printable(text, isolates=True)
    return f"{ISOLATE}{shown}{END_OF_ISOLATE}" if any(bidirectional(sign) in _FROM_RIGHT for sign in shown) else shown


def padded(text: object, width: int) -> str:
    """:func:`isolated` and spaces up to ``width``; the signs around it take no room."""
    return isolated(text) + " " * (width - len(printable(text, isolates=True)))


def _closed(text: str) -> bool:
    """Whether every isolate of a text ends in its line."""
    open_ones = 0
    for sign in text:
        open_ones += (sign == ISOLATE) - (sign == END_OF_ISOLATE)
        if open_ones < 0 or (open_ones and sign == "\n"):
            return False
    return open_ones == 0


def cell(text: object) -> str:
    """Printable text for a table of rich, in which ``[red]`` is written as it stands."""
    from rich.markup import escape

    return escape(isolated(text))


def escape(text: str) -> str:
    """Printable text for a page: no sign of it is read as HTML, and all can be written as UTF-8.

    Unlike on a terminal, signs that join letters stay: a browser draws what they join. So do those of :func:`isolated`.
    """
    whole = str(text)
    kept = (*_JOINERS, *((ISOLATE, END_OF_ISOLATE) if _closed(whole) else ()))
    if not any(sign in whole for sign in kept):
        return html.escape(printable(whole, lines=True))
    return "".join(sign if sign in kept else html.escape(printable(sign, lines=True)) for sign in whole)


def moment(seconds: float) -> str:
    """Local date and time of some seconds since 1970; the number itself where no calendar reaches."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
