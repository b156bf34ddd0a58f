"""Text that comes from files, made safe for a terminal: it can neither move the cursor, nor hide, nor colour."""

from __future__ import annotations

import html
import time


def printable(text: object, *, lines: bool = False) -> str:
    r"""The text with every character escaped that is no visible one, as ``repr`` does it (``\x1b``, ``\u202e``).

    Those are control characters (among them what begins an ANSI sequence), signs that turn the direction of writing,
    and halves of surrogate pairs, which cannot be written at all.

    Args:
        text: of any kind; what is no text is turned into it.
        lines: keep line breaks, for a message of several lines.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(
        sign if sign.isprintable() or (lines and sign == "\n") else sign.encode("unicode_escape").decode()
        for sign in whole
    )


def cell(text: object) -> str:
    """Printable text for a table of rich, in which ``[red]`` is written as it stands."""
    from rich.markup import escape

    return escape(printable(text))


_JOINERS = ("\u200c", "\u200d")
"""Are no visible signs, and names need them: emoji of several signs, Persian and the scripts of India."""


def escape(text: str) -> str:
    """Printable text for a page: no sign of it is read as HTML, and all can be written as UTF-8.

    Unlike on a terminal, signs that join letters stay: a browser draws what they join.
    """
    whole = str(text)
    if not any(sign in whole for sign in _JOINERS):
        return html.escape(printable(whole, lines=True))
    return "".join(sign if sign in _JOINERS else html.escape(printable(sign, lines=True)) for sign in whole)


def moment(seconds: float) -> str:
    """Local date and time of some seconds since 1970; the number itself where no calendar reaches."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
