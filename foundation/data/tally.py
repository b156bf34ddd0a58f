"""Files counted by reason, the first few named: what is left out of shards, and why, is never lost in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NAMED = 5
"""Files of one reason that are named; the rest is counted."""


def _printable(text: str) -> str:
    """Without control characters, which a file's name may hold and a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown(text))


def shown(name: str) -> str:
    """A file's name as text that can be written: bytes of it that are no UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


@dataclass
class Tally:
    """How many files for each reason, and which.

    Attributes:
        counts: files by reason: a few words such as ``hidden`` or ``.heic``, or one of ``foundation.errors.REASONS``.
        first: the first few by reason, each with what is wrong with it where that says more.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, detail: str = "", number: int = 1) -> None:
        """Count a file, or a folder with several.

        Args:
            reason: to count by.
            name: of the file, as the user would look for it.
            detail: what is wrong with this one.
            number: of files.
        """
        reason = _printable(reason)
        self.counts[reason] += number
        named = self.first.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(_printable(f"{name}: {detail}" if detail else name))

    def merge(self, other: Tally) -> None:
        """Take over what another tally has."""
        for reason, number in other.counts.items():
            self.counts[reason] += number
            named = self.first.setdefault(reason, [])
            named.extend(other.first.get(reason, ())[: NAMED - len(named)])

    def forget(self, reason: str) -> None:
        """Take a reason out, where its files are used after all."""
        self.counts.pop(reason, None)
        self.first.pop(reason, None)

    @property
    def total(self) -> int:
        return self.counts.total()

    def lines(self) -> list[str]:
        """For a person: a line for each reason with its number, those of most files first, and below it the names."""
        result = []
        for reason, number in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            result.append(f"{number:,} {reason}")
            result += [f"  {name}" for name in self.first.get(reason, ())]
            if number > (shown := len(self.first.get(reason, ()))) > 0:
                result[-1] += f" (and {number - shown:,} more)" if shown == NAMED else ""
        return result

    def problems(self) -> list[str]:
        """A line for each file that is named, ``NAME: REASON: what is wrong``, and one for the rest of each reason."""
        result = []
        for reason, number in sorted(self.counts.items()):
            named = self.first.get(reason, [])
            for text in named:
                name, colon, detail = text.partition(": ")
                result.append(f"{name}: {reason}{colon}{detail}")
            if len(named) == NAMED < number:
                result.append(f"{number - NAMED:,} more: {reason}")
        return result

    def brief(self) -> str:
        """In one line, for messages: ``12 .heic (a.heic, ...), 3 hidden (.x)``; empty when there are none."""
        parts = []
        for reason, number in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            first = self.first.get(reason, [])
            parts.append(f"{number:,} {reason}" + (f" ({first[0]}{', ...' if number > 1 else ''})" if first else ""))
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """For ``index.json``: ``{reason: {"files": 12, "first": [...]}}``."""
        return {
            reason: {"files": number, "first": self.first.get(reason, [])}
            for reason, number in sorted(self.counts.items())
        }
